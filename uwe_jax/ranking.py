"""Using a model: embed a target space once, then rank it for any query."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from uwe_jax import hub, mesh
from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.data.loader import Array, pad
from uwe_jax.interaction import Score, attention, late_interaction
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


class AttentionMap(NamedTuple):
    """How the tokens of one query meet those of one target.

    Attributes:
      query_tokens, target_tokens: the word pieces of each text, <s> and </s> included.
      a: [L_q, L_y] float32; A, how much each pair of tokens counts; 0 where a token takes no part.
      c: [L_q, L_y] float32; C, their cosines.
      score: sim(query, target).
    """

    query_tokens: list[str]
    target_tokens: list[str]
    a: np.ndarray
    c: np.ndarray
    score: float


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Texts as token embeddings, those of one padded length together. Made by `Ranker.embedded`.

    Attributes:
      groups: (places, embeddings, length) of each padded length, as `Ranker.embed` yields them; places ascend.
    """

    groups: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return sum(len(places) for places, _, _ in self.groups)

    def take(self, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Some of the texts, in the order asked for: embeddings [n, MAX_TOKENS, d] and length [n]."""
        wanted = np.asarray(places)
        embeddings = np.zeros((len(wanted), MAX_TOKENS, self.groups[0][1].shape[2]), np.float32)
        length = np.zeros(len(wanted), np.int32)
        for own, of_group, length_of_group in self.groups:
            here = np.isin(wanted, own)
            rows = np.searchsorted(own, wanted[here])
            embeddings[here, : of_group.shape[1]], length[here] = of_group[rows], length_of_group[rows]
        return embeddings, length


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
    def from_pretrained(
        cls,
        source: str | pathlib.Path,
        pooling: str = 'tokens',
        dtype: str = 'float32',
        check: Callable[[Score], None] | None = None,
    ) -> 'Ranker':
        """Loads an export of this project, or a plain MPNet model.

        Args:
          source: a directory or a Hub name.
          pooling: `tokens` scores as the export's settings say (soft late interaction for a plain model); `mean` by
            the cosine of mean-pooled vectors.
          dtype: of the encoder's products, float32 or bfloat16.
          check: is shown the score before the weights are read, and raises ValueError to refuse it.

        Raises:
          ValueError: the pooling is unknown, the score is refused, or the model's files are not as expected.
        """
        if pooling not in ('tokens', 'mean'):
            raise ValueError(f'pooling: {pooling!r}, expected tokens or mean')
        directory = hub.fetch(str(source))
        settings = directory / hub.SETTINGS
        score = Score(**json.loads(settings.read_text())['score']) if settings.exists() else Score()
        if pooling == 'mean':
            score = Score(kind='mean')
        if check is not None:
            check(score)
        return cls(hub.load_encoder(directory, dtype=dtype), hub.Tokenizer.from_pretrained(directory), score)

    def index(self, texts: Sequence[str], ids: Sequence | None = None) -> 'TargetIndex':
        """Embeds a target space; the result ranks it for any queries."""
        return TargetIndex(self, texts, range(len(texts)) if ids is None else ids)

    def score(self, queries: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """sim(q, y) of all pairs: [queries, targets] float32."""
        return self.index(targets).score(queries)

    def attention(self, query: str, target: str) -> AttentionMap:
        """A, C and the score of one pair of texts, token by token.

        Raises:
          ValueError: the score has no attention between tokens.
        """
        ids = self._tokenizer.encode([query, target], MAX_TOKENS)
        devices = self._mesh.size if self._mesh else 1
        batch = pad(ids + ids[:1] * (-2 % devices), MAX_TOKENS)
        (q, y), (q_len, y_len) = self._encode(*batch)[:2], batch[1][:2]
        a, c, score = _attention(q[None], q_len[None], y[None], y_len[None], self.pair_score)
        a, c = (np.asarray(x)[0, :q_len, :y_len] for x in (a, c))
        query_tokens, target_tokens = map(self._tokenizer.tokens, ids)
        return AttentionMap(query_tokens, target_tokens, a, c, float(score[0]))

    def embedded(self, texts: Sequence[str]) -> Embedded:
        """Embeds texts to score them more than once."""
        by_length: dict[int, list] = {}
        for part in self.embed(texts):
            by_length.setdefault(part[1].shape[1], []).append(part)
        return Embedded([_joined(*zip(*parts, strict=True)) for parts in by_length.values()])

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

    Attributes:
      embedded: the target space's token embeddings.

    Raises:
      ValueError: there is no text, or not one id a text.
    """

    def __init__(self, ranker: Ranker, texts: Sequence[str], ids: Sequence):
        if not texts or len(texts) != len(ids):
            raise ValueError(f'index: {len(texts)} texts and {len(ids)} ids, expected as many of both, at least one')
        self.texts, self.ids = texts, ids
        self._ranker = ranker
        self.embedded = ranker.embedded(texts)

    def score(self, queries: Sequence[str] | Embedded) -> np.ndarray:
        """sim(query, target) of all pairs: [queries, targets] float32."""
        scores = np.empty((len(queries), len(self.texts)), np.float32)
        parts = queries.groups if isinstance(queries, Embedded) else self._ranker.embed(queries)
        for places, embeddings, length in parts:
            for start in range(0, len(places), QUERIES_PER_CALL):
                block = slice(start, start + QUERIES_PER_CALL)
                rows = _power_of_two(len(places[block]))
                q, q_length = (_fill(x[block], rows) for x in (embeddings, length))
                for targets, y, y_length in self.embedded.groups:
                    of_group = _score(q, q_length, y, y_length, self._ranker.pair_score)
                    scores[np.ix_(places[block], targets)] = np.asarray(of_group)[: len(places[block])]
        return scores

    def rank(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """The k best targets of each query, best first; equal scores in the targets' order."""
        return [
            [Hit(self.ids[int(target)], self.texts[int(target)], float(row[target])) for target in order]
            for row, order in ((row, np.argsort(-row, kind='stable')[:k]) for row in self.score(queries))
        ]


def _joined(places, embeddings, length) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.concatenate(places), np.concatenate(embeddings), np.concatenate(length)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _encode(graphdef, params, ids, length, sharding):
    embeddings = nnx.merge(graphdef, params)(ids, length)
    return embeddings if sharding is None else jax.lax.with_sharding_constraint(embeddings, sharding)


@functools.partial(jax.jit, static_argnums=4)
def _score(q, q_length, y, y_length, score):
    return late_interaction(q, q_length, y, y_length, score)[0]


@functools.partial(jax.jit, static_argnums=4)
def _attention(q, q_length, y, y_length, score):
    return attention(q, q_length, y, y_length, score)


def _power_of_two(rows: int) -> int:
    """The next power of two, so that few programs are compiled."""
    return 1 << (rows - 1).bit_length()


def _fill(x: np.ndarray, rows: int) -> np.ndarray:
    """Adds rows of zeros; a text of length 0 takes no part."""
    return np.pad(x, [(0, rows - len(x))] + [(0, 0)] * (x.ndim - 1))
