"""Texts to vectors: an encoder and its tokenizer, for the score that says which vectors are needed."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, Int32, Int64, Integer

from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.data.packing import Rows, lay_out, pack
from uwe_jax.data.ranges import ranges
from uwe_jax.data.text import truncated
from uwe_jax.distributed import mesh
from uwe_jax.interaction import Score, Side, check_says_who_attends
from uwe_jax.io.console import Progress
from uwe_jax.models.mpnet import MPNet, cast_matrices
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking.embedded import DTYPES, Embedded

logger = logging.getLogger(__name__)

# Shapes of what the encoder takes at a time, so that few programs are compiled: one short row if all texts fit into it,
# otherwise a few rows, or many, of as many tokens as the longest text.
SHORT_ROWS = (8, 16, 32, MAX_TOKENS)
FEW_ROWS = (1, 2, 3, 4, 6, 8)
CPU_ROWS, ACCELERATOR_ROWS = 32, 256


class Embedder:
    """Turns texts into the vectors that a score needs.

    Args:
      encoder: makes the token embeddings.
      tokenizer: the encoder's.
      score: how queries and targets are scored.
      device_mesh: if given, the encoder's parameters lie on it and batches are split over it.

    Attributes:
      d: the size of a vector.
      pair_score: the score.
      mesh: the device mesh, or None.
      truncated: how many texts so far had more than `MAX_TOKENS` tokens and were cut.
    """

    def __init__(
        self, encoder: MPNet, tokenizer: Tokenizer, score: Score, device_mesh: jax.sharding.Mesh | None = None
    ):
        self._graphdef, self._params = nnx.split(encoder)
        self._cast = cast_matrices(self._params, encoder.dtype)
        self._tokenizer = tokenizer
        self._dtype, self.d = str(jnp.dtype(encoder.dtype)), encoder.word_embeddings.features
        self.mesh = device_mesh
        self.pair_score = score
        self.truncated = 0

    @property
    def devices(self) -> int:
        """The number of devices that share the work."""
        return self.mesh.size if self.mesh else 1

    @property
    def stored_score(self) -> Score:
        """The score as it applies to stored vectors, all of which take part.

        Raises:
          ValueError: the score is `from_skill`, and nothing says on which side the skills are.
        """
        check_says_who_attends(self.pair_score)
        return dataclasses.replace(self.pair_score, special_tokens=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies what scores depend on: parameters (which must lie on this host), tokenizer and settings."""
        return self._identify(dataclasses.asdict(self.pair_score), self._dtype)

    @functools.cached_property
    def vectors_fingerprint(self) -> str:
        """Identifies what the vectors of targets depend on, but for their rounding."""
        return self._identify(self.pair_score.special_tokens, self.pools('target'))

    def _identify(self, *choices: object) -> str:
        settings = [self._tokenizer.fingerprint, *choices, MAX_TOKENS]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path, value in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(self._params)):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()[:16]

    def pools(self, side: Side) -> bool:
        """Whether the texts of a side become one mean each, rather than a vector per token."""
        score = self.pair_score
        return score.kind == 'mean' or (side == 'target' and score.target == 'mean')

    @property
    def fewest_tokens(self) -> int:
        """The vectors of a text of one token: with <s> and </s>, if they take part."""
        return 3 if self.pair_score.special_tokens else 1

    def embed(self, texts: Sequence[str], side: Side = 'query', dtype: str = 'float32') -> Embedded:
        """Embeds texts for scoring.

        Args:
          texts: not blank.
          side: whether they are queries or targets.
          dtype: of the stored vectors: float32, bfloat16, or int8 with a scale for each.

        Raises:
          ValueError: a text is blank or not a string, or the dtype is unknown.
        """
        return self.embed_as(texts, self.pools(side), dtype)

    def embed_as(self, texts: Sequence[str], pooled: bool, dtype: str) -> Embedded:
        """As `embed`: one mean per text if `pooled`, else a vector per token, whatever the score needs."""
        if dtype not in DTYPES:
            raise ValueError(f'dtype: {dtype!r}, expected one of {", ".join(DTYPES)}')
        special = 0 if self.pair_score.special_tokens else 1  # left out at each end
        ids = self._tokenise(texts)
        tokens = np.array([len(text) for text in ids], np.int32)
        embedded = Embedded.empty(np.ones_like(tokens) if pooled else tokens - 2 * special, self.d, dtype)
        with Progress('embedding', len(texts), 'texts') as progress:
            for places, start, embeddings in self._encoded(ids):
                vectors = embeddings[ranges(start + special, tokens[places] - 2 * special)]
                if pooled:
                    vectors = _means(vectors, tokens[places] - 2 * special)
                embedded.fill(embedded.row[places], vectors)
                progress.advance(len(places))
        return embedded

    def warm_up(self) -> Iterator[None]:
        """Compiles all that `embed` may need; yields after each program."""
        shapes = [(1, tokens) for tokens in SHORT_ROWS[:-1]] + [
            (rows, MAX_TOKENS) for rows in (*FEW_ROWS, _most_rows())
        ]
        for rows, tokens in shapes:
            self._encode(pack([], np.zeros(0, np.int32), self._rounded_up(rows), tokens))
            yield

    def _tokenise(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The token ids of each text, cut to `MAX_TOKENS`. The first cut is logged."""
        for place, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f'text {place}: {text!r}, expected a string that is not blank')
        ids = self._tokenizer.encode(texts)
        long = sum(len(text) > MAX_TOKENS for text in ids)
        if long and not self.truncated:
            logger.warning('%d of %d texts have more than %d tokens and are cut', long, len(texts), MAX_TOKENS)
        self.truncated += long
        return [truncated(text, MAX_TOKENS) for text in ids]

    def _encoded(
        self, ids: Sequence[np.ndarray]
    ) -> Iterator[tuple[Int64[np.ndarray, ' n'], Int32[np.ndarray, ' n'], Float32[np.ndarray, 'row_tokens d']]]:
        """Yields the indices of texts that were encoded together, the first token of each, and all token embeddings."""
        length = np.array([len(text) for text in ids], np.int32)
        total = length.sum()
        tokens = next((short for short in SHORT_ROWS if total <= short), MAX_TOKENS)
        start, rows = lay_out(length, tokens)
        most = _most_rows()
        call = start // (most * tokens)
        for number in range(-(-rows // most)):
            chosen = np.flatnonzero(call == number)
            of_call = min(rows - number * most, most)
            of_call = self._rounded_up(next((few for few in FEW_ROWS if of_call <= few), most))
            first = start[chosen] - number * most * tokens
            batch = pack([ids[text] for text in chosen.tolist()], first, of_call, tokens)
            yield chosen, first, self._encode(batch).reshape(of_call * tokens, -1)

    def _rounded_up(self, rows: int) -> int:
        """The next multiple of the number of devices."""
        return self.devices * -(-rows // self.devices)

    def _encode(self, rows: Rows) -> Float32[np.ndarray, 'rows tokens d']:
        if self.mesh is None:
            return np.asarray(_encode(self._graphdef, self._cast, rows, None))
        rows = mesh.put(rows, Rows(*(mesh.rows(self.mesh),) * 3))
        return np.asarray(_encode(self._graphdef, self._cast, rows, mesh.replicated(self.mesh)))


def _most_rows() -> int:
    return CPU_ROWS if jax.default_backend() == 'cpu' else ACCELERATOR_ROWS


def _means(vectors: Float32[np.ndarray, 'vectors d'], length: Integer[np.ndarray, ' n']) -> Float32[np.ndarray, 'n d']:
    """The mean of each text's vectors, which lie one after another; 0 for a text without vectors."""
    means = np.zeros((len(length), vectors.shape[1]), np.float32)
    some = length > 0
    if some.any():
        start = np.cumsum(length) - length
        means[some] = np.add.reduceat(vectors, start[some], axis=0) / length[some, None].astype(np.float32)
    return means


@functools.partial(jax.jit, static_argnums=(0, 3))
def _encode(graphdef, params, rows, sharding) -> Float[jax.Array, 'rows tokens d']:
    embeddings = nnx.merge(graphdef, params)(*rows)
    return embeddings if sharding is None else jax.lax.with_sharding_constraint(embeddings, sharding)
