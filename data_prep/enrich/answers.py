"""Reads the usable job titles in a model's answer."""

import collections
import dataclasses
import json
import unicodedata
from collections.abc import Collection

from uwe_jax.data.text import match_key, normalise
from uwe_jax.io.esco import Concept

MOST_CHARACTERS = 100  # of a title; the longest of ESCO 1.2.0 has 97
MOST_WORDS = 15  # the most in a title of ESCO 1.2.0 are 13
MOST_TITLES = 100  # in one answer


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


def read_titles(content: str, skill: Concept, known: Collection[str]) -> Titles:
    """Checks an answer against the schema, and every title in it.

    Args:
      content: the text of the answer, expected to be JSON of the schema in prompt.py.
      skill: its names do not count as job titles.
      known: titles that the skill already has, real or proposed.

    Raises:
      UnusableError: the answer is empty, not JSON, of another schema, or without any usable title.
    """
    if not content.strip():
        raise UnusableError('empty')
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise UnusableError('not JSON') from None
    if not isinstance(answer, dict) or set(answer) != {'titles'} or not isinstance(answer['titles'], list):
        raise UnusableError('not of the schema')
    if not all(isinstance(title, str) for title in answer['titles']):
        raise UnusableError('not of the schema')
    names = {match_key(name) for name in (skill.label, *skill.alternatives)}
    taken = {match_key(title) for title in known}
    usable: list[str] = []
    dropped: collections.Counter[str] = collections.Counter()
    for raw in answer['titles']:
        # A text may have any length; a very long one is only measured, not normalised.
        title = normalise(raw) if len(raw) <= 4 * MOST_CHARACTERS else raw
        key = match_key(title) if len(title) <= MOST_CHARACTERS else ''
        if len(usable) == MOST_TITLES:
            reason = 'too many'
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
