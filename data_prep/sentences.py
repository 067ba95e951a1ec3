"""Sentences: cutting them out of longer texts, and finding the skills that one names."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import sentencex

from uwe_jax.data.text import normalise

LANGUAGE = 'en'
# What no text should contain: control characters other than white space, and halves of surrogate pairs.
NOT_TEXT = re.compile(r'[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]')
# What separates words in a name. Because + and # do not, C, C++ and C# are different names.
_BETWEEN_WORDS = re.compile(r'[^\w+#]+')


def split_sentences(text: str, language: str = LANGUAGE) -> Iterator[str]:
    """Yields the sentences of a text, normalised, without blank ones.

    A line break ends a sentence, because most lines of a vacancy are list items or headings.

    Args:
      text: plain text.
      language: an ISO 639-1 code; the abbreviations of this language do not end a sentence. Codes that the splitter
        does not know are accepted.
    """
    for line in text.splitlines():
        for sentence in sentencex.segment(language, line):  # pyright: ignore[reportAttributeAccessIssue]
            if sentence := normalise(sentence):
                yield sentence


class Names:
    """Finds which skills a sentence names, by any of their labels as whole words.

    A label in capitals ('IT', 'C++') has to be written exactly so; the case of others does not matter.

    Args:
      labels: of each skill, by its node.
    """

    def __init__(self, labels: Mapping[int, Iterable[str]]):
        self._labels = {node: [_words(label) for label in names] for node, names in labels.items()}

    def joined(self, description: str, language: str, nodes: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """Yields every sentence of a description, with the skills that it names (which may be none).

        Args:
          description: of a vacancy.
          language: its ISO 639-1 code.
          nodes: the vacancy's skills; others are not looked for.
        """
        whole = _words(description)
        candidates = [(node, label) for node in nodes for label in self._labels.get(node, ()) if _in(label, whole)]
        for sentence in split_sentences(description, language):
            words = _words(sentence) if candidates else ('', '')
            yield sentence, list(dict.fromkeys(node for node, label in candidates if _in(label, words)))


def _words(text: str) -> tuple[str, str]:
    """The words of a text with one space before, between and after: as written, and case-folded."""
    words = f' {_BETWEEN_WORDS.sub(" ", normalise(text)).strip()} '
    return words, words.casefold()


def _in(label: tuple[str, str], text: tuple[str, str]) -> bool:
    written, folded = label
    return written in text[0] if written.upper() == written else folded in text[1]
