"""Reads the usable job titles in a model's answer: JSON as it was asked for, or what models write instead."""

# ruff: noqa: RUF001 (dashes and quotes of all kinds)

import collections
import contextlib
import dataclasses
import json
import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Any

import json_repair

from uwe_jax.data.text import match_key, normalise
from uwe_jax.io.esco import Concept

MOST_CHARACTERS = 100  # of a title; the longest of ESCO 1.2.0 has 97
MOST_WORDS = 15  # the most in a title of ESCO 1.2.0 are 13
MOST_TITLES = 100  # in one answer
MOST_REPAIRED = 16_000  # characters, more than that many titles have; the library's time grows with their square

# How models mark the beginning and the end of their thoughts. Of several channels, the last <|message|> is the answer.
_THOUGHT = re.compile(r'<(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷|<\|START_THINKING\|>', re.IGNORECASE)
_AFTER_THOUGHT = re.compile(
    r'</(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|message\|>', re.IGNORECASE
)
_JSON = re.compile(r'[{\[]\s*[{\["\']')  # not the brackets of "[1]" or "(m/f) [remote]"
_MARK = '[-–—*•·\u2190-\u2bff\U0001f000-\U0001faff]\ufe0f?'  # bullets, arrows and emoji
_NUMBER = '\\(?\\d{1,3}(?:[.):](?!\\d)|\ufe0f?\u20e3)'
# An explanation may follow a title: "1. **Data engineer**: builds pipelines".
_LISTED = re.compile(rf'^([ \t]*)(?:{_MARK}[ \t]+|{_NUMBER}[ \t]*)(.+?)(?: [-–—] .*|:(?:[ *].*)?)?$', re.MULTILINE)
_NAME = re.compile('title|^(name|job|position|role|occupation)(s|_?names?)?$', re.IGNORECASE)
_TITLE = re.compile(r'title|^\d+$', re.IGNORECASE)
_LIST_MARK = re.compile(rf'^(?:(?:{_MARK}|[#>])+|{_NUMBER})\s*')
_QUOTED = re.compile(r'^["“”„«»\'‘’](.+)["“”„«»\'‘’]$')
_DECODER = json.JSONDecoder(strict=False)  # takes raw line breaks in strings


class UnusableError(ValueError):
    """A whole answer has nothing worth keeping. The message is a short reason, without the answer's text."""


@dataclasses.dataclass(frozen=True)
class Titles:
    """The titles of one answer.

    Attributes:
      usable: normalised, distinct, in the answer's order.
      dropped: the number of unusable ones by reason.
    """

    usable: list[str]
    dropped: dict[str, int]


def read_titles(content: str, skill: Concept, known: Collection[str], cut_off: bool = False) -> Titles:
    """Reads the titles in an answer, and checks each.

    Args:
      content: the text of the answer. Expected is JSON of the schema in prompt.py; thoughts, Markdown and prose around
        it, other JSON with titles, damaged JSON, and a list without JSON are read as well.
      skill: its names do not count as job titles.
      known: titles that the skill already has, real or proposed.
      cut_off: whether the answer ends too early; its last title is dropped unless its quotes are closed.

    Raises:
      UnusableError: there is no usable title in the answer.
    """
    if cut_off:
        content = content[: max(content.rfind('"'), content.rfind('\n')) + 1]
    content = _THOUGHT.split(_AFTER_THOUGHT.split(content)[-1])[0]
    if not content.strip():
        raise UnusableError('empty')
    names = {match_key(name) for name in (skill.label, *skill.alternatives)}
    taken = {match_key(title) for title in known}
    usable: list[str] = []
    dropped: collections.Counter[str] = collections.Counter()
    for raw in _proposed(content):
        title = _bare(raw) if isinstance(raw, str) else ''
        key = match_key(title) if len(title) <= MOST_CHARACTERS else ''
        if len(usable) == MOST_TITLES:
            reason = 'too many'
        elif not isinstance(raw, str):
            reason = 'not text'
        elif reason := _fault(title):
            pass
        elif key in names:
            reason = "the skill's own name"
        elif key in taken:
            reason = 'repeated'
        else:
            taken.add(key)
            usable.append(title)
            continue
        dropped[reason] += 1
    if not usable:
        raise UnusableError('no usable title')
    return Titles(usable, dict(sorted(dropped.items())))


def _proposed(content: str) -> list[Any]:
    """The items of the lists of titles in an answer; empty if there is none."""
    with contextlib.suppress(RecursionError, ValueError):  # nested too deeply
        if items := [item for value in _json_values(content) for item in _items(value)]:
            return items
    listed = _LISTED.findall(content)
    outermost = min((len(indent) for indent, _ in listed), default=0)  # deeper items are explanations
    return [title for indent, title in listed if len(indent) == outermost]


def _json_values(text: str) -> Iterator[Any]:
    """The JSON values in a text; of a damaged one what can be repaired, and nothing after it."""
    end = 0
    while begin := _JSON.search(text, end):
        try:
            value, end = _DECODER.raw_decode(text, begin.start())
        except ValueError:
            value, end = json_repair.loads(text[begin.start() :][:MOST_REPAIRED]), len(text)
        yield value


def _items(value: Any, in_list: bool = False, in_titles: bool = False) -> Iterator[Any]:
    """The items of the lists of titles in a JSON value: of an object, those of its parts whose names say so.

    Args:
      value: the JSON value.
      in_list: whether it is in a list.
      in_titles: whether it is in an object whose name says so; then all parts count, such as those of industries.
    """
    match value:
        case list():
            for item in value:
                yield from _items(item, in_list=True)
        case dict():
            nested = {name: part for name, part in value.items() if isinstance(part, list | dict)}
            named = [part for name, part in (value if in_list else nested).items() if _NAME.search(name)]
            by_name = bool(named)
            if not named and (in_titles or len(nested) == 1):
                named = list(nested.values())
            for part in named:
                yield from _items(part, in_list, in_titles or by_name)
            if not named and not in_list:  # titles without a list
                texts = [part for name, part in value.items() if isinstance(part, str) and _TITLE.search(name)]
                yield from re.split('[,;\n]', texts[0]) if len(texts) == 1 else texts
        case _ if in_list:
            yield value


def _bare(text: str) -> str:
    """A title without list marks, quotes, emphasis and characters that have no width; normalised."""
    if len(text) > 4 * MOST_CHARACTERS:
        return text  # it is too long whatever is removed
    text = text.replace('\u200b', ' ')  # the zero-width space separates words
    text = normalise(''.join(character for character in text if unicodedata.category(character) != 'Cf'))
    while (shorter := _QUOTED.sub(r'\1', _LIST_MARK.sub('', text)).strip(' *_`').rstrip(' ,;')) != text:
        text = shorter
    return text


def _fault(title: str) -> str | None:
    """Why a title cannot be used for any skill, or None."""
    if not title:
        return 'blank'
    if len(title) > MOST_CHARACTERS or len(title.split()) > MOST_WORDS:
        return 'too long'
    if any(unicodedata.category(character).startswith('C') for character in title):
        return 'invisible characters'
    return None if in_latin_letters(title) else 'not in Latin letters'


def in_latin_letters(text: str) -> bool:
    """Whether a text has letters, all of them Latin.

    This much can be said about a title's language without a language model. It detects Russian, Greek, Arabic, Hindi,
    Chinese or Japanese, and single foreign letters among Latin ones. It does not detect German, French, Spanish,
    Vietnamese or any other language with Latin letters: titles are too short to tell reliably, and English ones borrow
    words (chef de partie, maître d'hôtel).
    """
    letters = [character for character in text if character.isalpha()]
    return bool(letters) and all('LATIN' in unicodedata.name(letter, '') for letter in letters)
