"""Using a model: embed a target space once, then rank it for any query."""

import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from uwe_jax import hub, mesh
from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.data.loader import Array, pad
from uwe_jax.interaction import Score, late_interaction
from uwe_jax.mpnet import MPNet

LENGTHS = (8, 16, 32, MAX_TOKENS)  # texts are padded to one of these, so that few programs are compiled
TOKENS_PER_CALL = 2048  # padded tokens that the encoder is given at a time
QUERIES_PER_CALL = 32  # queries that are scored at a time


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


class Ranker:
    """A model that ranks texts.

        ranker = Ranker.from_pretrained(directory)
        index = ranker.index(skills)
        index.rank(['data engineer'], k=5)

    Args:
      encoder: gives the token embeddings.
      tokenizer: of the encoder's vocabulary.
      score: what a score is.
      device_mesh: if given, the encoder's parameters lie on it and its batches are split over it.
    """

    def __init__(
        self,
        encoder: MPNet,
        tokenizer: hub.Tokenizer,
        score: Score,
        device_mesh: jax.sharding.Mesh | None = None,
    ):
        self._graphdef, self._params = nnx.split(encoder)
        self._tokenizer = tokenizer
        self._mesh = device_mesh
        self.pair_score = score

    @classmethod
    def from_pretrained(cls, source: str | pathlib.Path, pooling: str = 'tokens', dtype: str = 'float32') -> 'Ranker':
        """Loads an export of this project, or a plain MPNet model.

        Args:
          source: a directory or a Hub name.
          pooling: `tokens` scores as the export's settings say (soft late interaction for a plain model); `mean` by
            the cosine of mean-pooled vectors.
          dtype: of the encoder's products, float32 or bfloat16.

        Raises:
          ValueError: the pooling is unknown, or the model's files are not as expected.
        """
        if pooling not in ('tokens', 'mean'):
            raise ValueError(f'pooling: {pooling!r}, expected tokens or mean')
        directory = hub.fetch(str(source))
        settings = directory / hub.SETTINGS
        score = Score(**json.loads(settings.read_text())['score']) if settings.exists() else Score()
        return cls(
            hub.load_encoder(directory, dtype=dtype),
            hub.Tokenizer.from_pretrained(directory),
            Score(kind='mean') if pooling == 'mean' else score,
        )

    def index(self, texts: Sequence[str], ids: Sequence | None = None) -> 'TargetIndex':
        """Embeds a target space; the result ranks it for any queries."""
        return TargetIndex(self, texts, range(len(texts)) if ids is None else ids)

    def score(self, queries: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """sim(q, y) of all pairs: [queries, targets] float32."""
        return self.index(targets).score(queries)

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Token embeddings, texts of similar length together.

        Yields:
          places: [n]; which of the texts these are.
          embeddings: [n, L, d] float32, L one of `LENGTHS`.
          length: [n] int32; tokens of each text.
        """
        ids = self._tokenizer.encode(list(texts), MAX_TOKENS)
        length = np.array([len(text) for text in ids], np.int32)
        padded = np.searchsorted(LENGTHS, length)
        devices = self._mesh.size if self._mesh else 1
        for size, tokens in enumerate(LENGTHS):
            places = np.flatnonzero(padded == size)
            rows = devices * -(-TOKENS_PER_CALL // (tokens * devices))
            for start in range(0, len(places), rows):
                chosen = places[start : start + rows]
                batch = pad([ids[place] for place in chosen] + [ids[chosen[0]]] * (rows - len(chosen)), tokens)
                yield chosen, self._encode(*batch)[: len(chosen)], length[chosen]

    def _encode(self, ids: Array, length: Array) -> np.ndarray:
        if self._mesh is None:
            return np.asarray(_encode(self._graphdef, self._params, ids, length, None))
        ids, length = mesh.put((ids, length), (mesh.rows(self._mesh),) * 2)
        return np.asarray(_encode(self._graphdef, self._params, ids, length, mesh.replicated(self._mesh)))


class TargetIndex:
    """A target space's token embeddings, ready to be ranked. Made by `Ranker.index`.

    Args:
      ranker: embeds the queries.
      texts: the target space.
      ids: what to call each target.

    Raises:
      ValueError: there is no text, or not one id a text.
    """

    def __init__(self, ranker: Ranker, texts: Sequence[str], ids: Sequence):
        if not texts or len(texts) != len(ids):
            raise ValueError(f'index: {len(texts)} texts and {len(ids)} ids, expected as many of both, at least one')
        self.texts, self.ids = texts, ids
        self._ranker = ranker
        by_length: dict[int, list] = {}
        for part in ranker.embed(texts):
            by_length.setdefault(part[1].shape[1], []).append(part)
        # One (places, embeddings, length) for every padded length.
        self._groups = [tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in by_length.values()]

    def score(self, queries: Sequence[str]) -> np.ndarray:
        """sim(query, target) of all pairs: [queries, targets] float32."""
        scores = np.empty((len(queries), len(self.texts)), np.float32)
        for places, embeddings, length in self._ranker.embed(queries):
            for start in range(0, len(places), QUERIES_PER_CALL):
                block = slice(start, start + QUERIES_PER_CALL)
                rows = _power_of_two(len(places[block]))
                q, q_length = (_fill(x[block], rows) for x in (embeddings, length))
                for targets, y, y_length in self._groups:
                    of_group = _score(q, q_length, y, y_length, self._ranker.pair_score)
                    scores[np.ix_(places[block], targets)] = np.asarray(of_group)[: len(places[block])]
        return scores

    def rank(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """The k best targets of each query, best first; equal scores in the targets' order."""
        return [
            [Hit(self.ids[int(target)], self.texts[int(target)], float(row[target])) for target in order]
            for row, order in ((row, np.argsort(-row, kind='stable')[:k]) for row in self.score(queries))
        ]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _encode(graphdef, params, ids, length, sharding):
    embeddings = nnx.merge(graphdef, params)(ids, length)
    return embeddings if sharding is None else jax.lax.with_sharding_constraint(embeddings, sharding)


@functools.partial(jax.jit, static_argnums=4)
def _score(q, q_length, y, y_length, score):
    return late_interaction(q, q_length, y, y_length, score)[0]


def _power_of_two(rows: int) -> int:
    """The next power of two, so that few programs are compiled."""
    return 1 << (rows - 1).bit_length()


def _fill(x: np.ndarray, rows: int) -> np.ndarray:
    """Adds rows of zeros; a text of length 0 takes no part."""
    return np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))
