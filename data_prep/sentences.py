"""Sentences: cut out of longer texts, and the skills that one names."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import sentencex

from uwe_jax.data.text import normalise
from uwe_jax.io.esco import Concept

LANGUAGE = 'en'
# What parts words in a name; + and # do not, which keeps C, C++ and C# apart.
_BETWEEN_WORDS = re.compile(r'[^\w+#]+')


def split_sentences(text: str, language: str = LANGUAGE) -> Iterator[str]:
    """Yields the sentences of a text, normalised, without blank ones.

    A line break ends a sentence, because the lines of a vacancy are items of lists and headings more often than not.

    Args:
      text: plain text.
      language: its ISO 639-1 code, whose abbreviations do not end a sentence; an unknown one does no harm.
    """
    for line in text.splitlines():
        for sentence in sentencex.segment(language, line):  # pyright: ignore[reportAttributeAccessIssue]
            if sentence := normalise(sentence):
                yield sentence


def sentences_of_descriptions(
    skills: Mapping[str, Concept], number: Mapping[str, int]
) -> Iterator[tuple[str, str, list[int]]]:
    """The sentences of each skill's own description, joined to that skill: (sentence, URI, [node])."""
    for uri, skill in skills.items():
        for sentence in split_sentences(skill.description):
            yield sentence, uri, [number[skill.label]]


class Names:
    """Finds which skills a sentence names, by any of their labels as whole words.

    A label in capitals ('IT', 'C++') must stand as it is; the case of others does not matter.

    Args:
      labels: of each skill, by its node.
    """

    def __init__(self, labels: Mapping[int, Iterable[str]]):
        self._labels = {node: [_words(label) for label in own] for node, own in labels.items()}

    def joined(self, description: str, language: str, nodes: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
        """Yields the sentences of a description with those of the given skills that each names, be they none.

        Args:
          description: of a vacancy.
          language: its ISO 639-1 code.
          nodes: the vacancy's skills.
        """
        whole = _words(description)
        candidates = [
            (node, label) for node in nodes for label in self._labels.get(node, ()) if _stands_in(label, whole)
        ]
        for sentence in split_sentences(description, language):
            words = _words(sentence) if candidates else ('', '')
            yield sentence, list(dict.fromkeys(node for node, label in candidates if _stands_in(label, words)))


def _words(text: str) -> tuple[str, str]:
    """The words of a text with one space before, between and after, as they are and case-folded."""
    words = f' {_BETWEEN_WORDS.sub(" ", normalise(text)).strip()} '
    return words, words.casefold()


def _stands_in(label: tuple[str, str], text: tuple[str, str]) -> bool:
    written, folded = label
    return written in text[0] if written.upper() == written else folded in text[1]
