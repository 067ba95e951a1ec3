"""A target space: embedded once, ranked for any query, kept on disk."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from uwe_jax.io.files import whole_directory
from uwe_jax.ranking.embedded import DTYPES, Embedded
from uwe_jax.ranking.embedder import Embedder
from uwe_jax.ranking.scoring import MEMORY_MIB, BlockScorer, score_few, shapes

SETTINGS = 'index.json'
TARGETS = 'targets.jsonl'


class Hit(NamedTuple):
    """One ranked target.

    Attributes:
      id: its id; by default its position in the target space.
      text: its text.
      score: sim(query, target).
    """

    id: object
    text: str
    score: float


class TargetIndex:
    """A target space's vectors, ready to be ranked. Made by `Ranker.index` or `TargetIndex.load`.

    Args:
      embedder: embeds the queries.
      texts: the target space.
      ids: the name of each target.
      embedded: the vectors of the texts.
      memory_mib: the memory for scoring, in MiB, beside the index and the scores.
    """

    def __init__(
        self,
        embedder: Embedder,
        texts: Sequence[str],
        ids: Sequence,
        embedded: Embedded,
        memory_mib: int = MEMORY_MIB,
    ):
        self.texts, self.ids, self.embedded = texts, ids, embedded
        self._embedder, self._memory_mib = embedder, memory_mib

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies what scores and hits depend on: the model, the dtype, the texts and their ids."""
        content = [self._embedder.fingerprint, self.embedded.dtype, list(self.ids), list(self.texts)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def score(self, queries: Sequence[str] | Embedded) -> Float32[np.ndarray, 'queries targets']:
        """sim(query, target) of every query and target."""
        scores = np.empty((len(queries), len(self.texts)), np.float32)
        for places, of_block in self._scored(queries):
            scores[places] = of_block
        return scores

    def __len__(self) -> int:
        return len(self.texts)

    def rank(self, queries: Sequence[str] | Embedded, k: int = 10, shortlist: int | None = None) -> list[list[Hit]]:
        """The k best targets of each query, best first; targets with equal scores keep their order.

        Args:
          queries: not blank; or embedded by the index's model.
          k: how many; all if there are fewer.
          shortlist: if set, only this many targets are scored: those whose mean-pooled vectors have the largest cosine
            with the query's. Faster, and not exact.

        Raises:
          ValueError: k or the shortlist is not above 0, or a query is blank or not a string.
        """
        check_counts(k, shortlist)
        if shortlist is not None:
            shortlisted = self._shortlisted(self._embedded(queries), shortlist)
            return [self._hits(targets, scores, k) for targets, scores in shortlisted]
        ranked: list[list[Hit]] = [[] for _ in range(len(queries))]
        everything = np.arange(len(self.texts))
        for places, of_block in self._scored(queries):
            for place, scores in zip(places, of_block, strict=True):
                ranked[place] = self._hits(everything, scores, k)
        return ranked

    def warm_up(self) -> Iterator[None]:
        """Compiles all that exact ranking needs; yields after each program."""
        score, fewest = self._embedder.stored_score, self._embedder.fewest_tokens
        lengths = (1,) if score.kind == 'mean' else [tokens for tokens in shapes().lengths if tokens >= fewest]
        yield from self._scorer.warm_up(lengths)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the index as a directory, which appears when it is complete.

        Raises:
          OSError: the directory cannot be written, or exists.
          TypeError: JSON cannot represent an id.
        """
        settings = {
            'format': 1,
            'model': self._embedder.fingerprint,
            'dtype': self.embedded.dtype,
            'targets': len(self.texts),
            'vectors': list(self.embedded.tokens.shape),
        }
        lines = (json.dumps([i, text], ensure_ascii=False) for i, text in zip(self.ids, self.texts, strict=True))
        with whole_directory(pathlib.Path(path)) as partial:
            (partial / SETTINGS).write_text(json.dumps(settings, indent=2) + '\n')
            with open(partial / TARGETS, 'w', encoding='utf-8') as file:
                file.writelines(f'{line}\n' for line in lines)
            np.save(partial / 'place.npy', self.embedded.place)
            np.save(partial / 'length.npy', self.embedded.length)
            np.save(partial / 'tokens.npy', _plain(self.embedded.tokens))
            if self.embedded.scale is not None:
                np.save(partial / 'scale.npy', self.embedded.scale)

    @classmethod
    def load(cls, path: str | pathlib.Path, ranker: Embedder) -> 'TargetIndex':
        """Opens a saved index; its vectors are mapped into memory, not read.

        Args:
          path: what `save` wrote.
          ranker: the one that made it, or one with the same model and settings.

        Raises:
          ValueError: the directory is not an index, is incomplete, or belongs to another model.
        """
        directory = pathlib.Path(path)
        try:
            settings = json.loads((directory / SETTINGS).read_text())
            with open(directory / TARGETS, encoding='utf-8') as file:
                ids, texts = zip(*map(json.loads, file), strict=True)
            place, length = np.load(directory / 'place.npy'), np.load(directory / 'length.npy')
            scale = np.load(directory / 'scale.npy') if settings['dtype'] == 'int8' else None
            tokens = np.load(directory / 'tokens.npy', mmap_mode='r').view(DTYPES[settings['dtype']])
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{directory}: not a whole index ({error}); expected what index.save made') from error
        if settings['model'] != ranker.fingerprint:
            raise ValueError(
                f'{directory}: an index of the model {settings["model"]}, expected {ranker.fingerprint}; '
                'use the model that made it, or make it again'
            )
        if not len(texts) == len(place) == settings['targets'] or list(tokens.shape) != settings['vectors']:
            raise ValueError(
                f'{directory}: {len(texts)} targets and {tokens.shape} vectors, expected {settings["targets"]} and '
                f'{tuple(settings["vectors"])}'
            )
        return cls(ranker, texts, ids, Embedded(place, length, tokens, scale))

    @functools.cached_property
    def _scorer(self) -> BlockScorer:
        return BlockScorer(self.embedded, self._embedder.stored_score, self._embedder.mesh, self._memory_mib)

    def _scored(self, queries: Sequence[str] | Embedded) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the indices of some queries, [n], and their scores, [n, targets] float32."""
        return self._scorer.score(self._embedded(queries))

    def _embedded(self, queries: Sequence[str] | Embedded) -> Embedded:
        return queries if isinstance(queries, Embedded) else self._embedder.embed(queries)

    def _shortlisted(self, queries: Embedded, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields for each query the targets with the nearest means, [count], ascending, and their scores."""
        for query, mean in enumerate(queries.means()):
            targets = np.sort(best(self._means @ mean, count))
            yield targets, score_few(queries[[query]], self.embedded[targets], self._embedder.stored_score)

    @functools.cached_property
    def _means(self) -> np.ndarray:
        return self.embedded.means()

    def _hits(self, targets: Int64[np.ndarray, ' n'], scores: Float32[np.ndarray, ' n'], k: int) -> list[Hit]:
        chosen = best(scores, k)
        scored = zip(map(int, targets[chosen]), map(float, scores[chosen]), strict=True)
        return [Hit(self.ids[target], self.texts[target], score) for target, score in scored]


def check_counts(k: int, shortlist: int | None) -> None:
    """Raises ValueError unless both numbers of targets are above 0."""
    for name, value in (('k', k), ('shortlist', shortlist)):
        if value is not None and value < 1:
            raise ValueError(f'{name}: {value}, expected a whole number above 0')


def best(scores: Float32[np.ndarray, ' n'], k: int) -> Int64[np.ndarray, ' best']:
    """The indices of the k largest numbers, largest first; of equal numbers, the first."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= least)
    else:
        places = np.arange(len(scores))
    return places[np.argsort(-scores[places], kind='stable')[:k]]


def _plain(tokens: np.ndarray) -> np.ndarray:
    """bfloat16, which numpy's file format lacks, as the same bits in uint16."""
    return tokens.view(np.uint16) if tokens.dtype == DTYPES['bfloat16'] else tokens
