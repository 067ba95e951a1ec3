"""Sentences: cutting them out of longer texts, and finding the skills that one names."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping

import sentencex

from uwe_jax.data.text import normalise

LANGUAGE = 'en'
# What no text should contain: control characters other than white space, and halves of surrogate pairs.
NOT_TEXT = re.compile(r'[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]')
# What begins an item of a list, even on one line: bullets, also those of symbol fonts and emoji; and characters with
# other uses (C*-algebra, col·laborar), which only stand alone when they are bullets.
BULLET = re.compile(
    r'[•‣\u2043\u25a0-\u25ff\u2611✅✓✔❖\u2794-\u27be🔴-🔹👉\uf000-\uf0ff]\ufe0f?|\d\ufe0f?\u20e3|(?<!\S)[·∙*→](?!\S)'
)
# Tags of HTML; those of blocks end a line. Only known names are tags, so that List<String> is text.
_TAG = re.compile(
    r'<!--(?:(?!<!--|-->).)*-->|<(?P<hidden>script|style)\b[^<>]*>.*?</(?P=hidden)>|'
    r'</?(?:(?P<block>article|blockquote|br|dd|div|dl|dt|h[1-6]|header|hr|li|main|ol|p|pre|section|table|td|th|tr|ul)|'
    r'a|b|big|center|em|font|i|img|label|o:p|s|small|span|strong|sub|sup|tbody|thead|u)(?:\s[^<>]*)?/?>',
    re.IGNORECASE | re.DOTALL,
)
_ENTITY = re.compile(r'&(?:#\d+|#x[\da-f]+|[a-z][a-z\d]*);', re.IGNORECASE)
# What separates words in a name. Because + and # do not, C, C++ and C# are different names.
_BETWEEN_WORDS = re.compile(r'[^\w+#]+')
_INITIALS = re.compile(r'(?<!\w)(\w)&(?=\w(?!\w))')  # R&D is one word, and does not name R


def without_tags(text: str) -> str:
    """Strips the tags of HTML, also if they are escaped; blocks and items of lists become lines.

    Text without a tag stays as it is, but for its entities.
    """
    for tagged in (text, html.unescape(text)):
        tags = list(_TAG.finditer(tagged))
        if any(tag['block'] for tag in tags):
            tagged = ' '.join(tagged.split())  # in HTML, the end of a line is a space
        if tags:
            return html.unescape(_TAG.sub(lambda tag: '\n' if tag['block'] else '', tagged))
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def split_sentences(text: str, language: str = LANGUAGE) -> Iterator[str]:
    """Yields the sentences of a text, normalised, without blank ones.

    A line break ends a sentence, because most lines of a vacancy are list items or headings; so does a bullet.

    Args:
      text: plain text.
      language: an ISO 639-1 code; the abbreviations of this language do not end a sentence. Codes that the splitter
        does not know are accepted.
    """
    for item in (item for line in text.splitlines() for item in BULLET.split(line)):
        for sentence in sentencex.segment(language.lower(), item):  # pyright: ignore[reportAttributeAccessIssue]
            if sentence := normalise(sentence):
                yield sentence


class Names:
    """Finds which skills a text names, by any of their labels as whole words.

    A label in capitals ('IT', 'C++') has to be written exactly so; the case of others does not matter.

    Args:
      labels: of each skill, by its node.
    """

    def __init__(self, labels: Mapping[int, Iterable[str]]):
        self._labels = {node: [_words(label) for label in names] for node, names in labels.items()}

    def named(self, text: str, nodes: Iterable[int]) -> list[int]:
        """Those of some skills that a text names."""
        words = _words(text)
        return [node for node in nodes if any(_in(label, words) for label in self._labels.get(node, ()))]


def _words(text: str) -> tuple[str, str]:
    """The words of a text with one space before, between and after: as written, and case-folded."""
    joined = _INITIALS.sub(r'\1', normalise(text))
    words = f' {_BETWEEN_WORDS.sub(" ", joined).strip()} '
    return words, words.casefold()


def _in(label: tuple[str, str], text: tuple[str, str]) -> bool:
    written, folded = label
    return written in text[0] if written.upper() == written else folded in text[1]
