"""A model that ranks texts."""

import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.data.loader import Array, pad
from uwe_jax.data.text import truncated
from uwe_jax.distributed import mesh
from uwe_jax.interaction import Score, attention
from uwe_jax.io.console import Progress
from uwe_jax.models import download, pretrained
from uwe_jax.models.mpnet import MPNet
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking.embedded import DTYPES, Embedded
from uwe_jax.ranking.index import TargetIndex
from uwe_jax.training import checkpoint
from uwe_jax.training.workdir import read_config

logger = logging.getLogger(__name__)


LENGTHS = (8, 16, 32, MAX_TOKENS)  # texts are padded to one of these, so that few programs are compiled
TOKENS_PER_CALL = 2048  # padded tokens that the encoder is given at a time
FEW = (1, 8)  # texts that have programs of their own, so that a single query is not padded to TOKENS_PER_CALL
MEMORY_MIB = 512


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


class Ranker:
    """A model that ranks texts.

        ranker = Ranker.from_pretrained(directory)
        index = ranker.index(skills)
        index.rank(['data engineer'], k=5)

    Args:
      encoder: gives the token embeddings.
      tokenizer: of the encoder's vocabulary.
      score: what a score is.
      device_mesh: if given, the encoder's parameters lie on it, and its batches and the queries are split over it.
      memory_mib: what scoring may take beside the index and the scores, in MiB.

    Attributes:
      pair_score: what a score is.
      truncated: how many texts had more than `MAX_TOKENS` tokens, and lost what was beyond them.
    """

    def __init__(
        self,
        encoder: MPNet,
        tokenizer: Tokenizer,
        score: Score,
        device_mesh: jax.sharding.Mesh | None = None,
        memory_mib: int = MEMORY_MIB,
    ):
        self._graphdef, self._params = nnx.split(encoder)
        self._tokenizer = tokenizer
        self._dtype, self._d = str(jnp.dtype(encoder.dtype)), encoder.word_embeddings.features
        self.mesh = device_mesh
        self.memory = memory_mib << 20
        self.pair_score = score
        self.truncated = 0

    @classmethod
    def from_pretrained(
        cls,
        source: str | pathlib.Path,
        pooling: str = 'tokens',
        dtype: str = 'float32',
        check: Callable[[Score], None] | None = None,
        memory_mib: int = MEMORY_MIB,
    ) -> 'Ranker':
        """Loads an export of this project, the newest checkpoint of a training run, or a plain MPNet model.

        Args:
          source: a directory or a Hub name.
          pooling: `tokens` scores as the export's settings say (soft late interaction for a plain model); `mean` by
            the cosine of mean-pooled vectors.
          dtype: of the encoder's products, float32 or bfloat16.
          check: is shown the score before the weights are read, and raises ValueError to refuse it.
          memory_mib: what scoring may take beside the index and the scores, in MiB.

        Raises:
          ValueError: the pooling is unknown, the score is refused, or the model's files are not as expected.
        """
        if pooling not in ('tokens', 'mean'):
            raise ValueError(f'pooling: {pooling!r}, expected tokens or mean')
        workdir = pathlib.Path(source).expanduser()
        trained = checkpoint.has_checkpoints(workdir)
        if trained:
            config = read_config(workdir)
            directory, score = download.fetch(config.init), config.score
        else:
            directory = download.fetch(str(source))
            score = _score_of(directory / pretrained.SETTINGS)
        if pooling == 'mean':
            score = Score(kind='mean')
        if check is not None:
            check(score)
        if trained:
            encoder = pretrained.abstract_encoder(directory, dtype=dtype, layers=config.model.layers)
            params, step = checkpoint.load_params(workdir)
            encoder = nnx.merge(nnx.graphdef(encoder), jax.tree.map(jnp.asarray, params))
            logger.info('Weights: %s after step %d', workdir, step)
        else:
            encoder = pretrained.load_encoder(directory, dtype=dtype)
        return cls(encoder, Tokenizer.from_pretrained(directory), score, memory_mib=memory_mib)

    @property
    def devices(self) -> int:
        """How many devices share the work."""
        return self.mesh.size if self.mesh else 1

    @property
    def stored_score(self) -> Score:
        """What a score is of vectors that `embedded` gave: of these all take part."""
        return dataclasses.replace(self.pair_score, special_tokens=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies what scores depend on: parameters, which must lie on this host, tokenizer and settings."""
        settings = [self._tokenizer.fingerprint, dataclasses.asdict(self.pair_score), self._dtype, MAX_TOKENS]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path, value in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(self._params)):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()[:16]

    def index(self, texts: Sequence[str], ids: Sequence | None = None, dtype: str = 'float32') -> TargetIndex:
        """Embeds a target space; the result ranks it for any queries.

        Args:
          texts: the target space. Equal texts are targets of their own.
          ids: what to call each target; by default its position.
          dtype: what the vectors are stored as: float32, bfloat16, or int8 with a scale for each.

        Raises:
          ValueError: there is no text, not one id a text, a text is blank or no string, or the dtype is unknown.
        """
        if not texts or (ids is not None and len(texts) != len(ids)):
            count = len(texts if ids is None else ids)
            raise ValueError(f'index: {len(texts)} texts and {count} ids, expected as many of both, at least one')
        return TargetIndex(self, texts, range(len(texts)) if ids is None else ids, self.embedded(texts, True, dtype))

    def score(self, queries: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """sim(q, y) of all pairs: [queries, targets] float32."""
        return self.index(targets).score(queries)

    def attention(self, query: str, target: str) -> AttentionMap:
        """A, C and the score of one pair of texts, token by token.

        Raises:
          ValueError: the score has no attention between tokens, or a text is blank.
        """
        ids = self._tokenised([query, target])
        batch = pad(ids + ids[:1] * (-2 % self.devices), MAX_TOKENS)
        (q, y), (q_len, y_len) = self._encode(*batch)[:2], batch[1][:2]
        a, c, score = _attention(q[None], q_len[None], y[None], y_len[None], self.pair_score)
        a, c = (np.asarray(x)[0, :q_len, :y_len] for x in (a, c))
        query_tokens, target_tokens = map(self._tokenizer.tokens, ids)
        return AttentionMap(query_tokens, target_tokens, a, c, float(score[0]))

    def embedded(self, texts: Sequence[str], targets: bool = False, dtype: str = 'float32') -> Embedded:
        """Embeds texts for scoring.

        Args:
          texts: no blank ones.
          targets: whether they are to be ranked; else they are queries.
          dtype: what the vectors are stored as.

        Returns:
          The vectors that take part in the ranker's score: of tokens, or one mean a text.

        Raises:
          ValueError: a text is blank or no string, or the dtype is unknown.
        """
        if dtype not in DTYPES:
            raise ValueError(f'dtype: {dtype!r}, expected one of {", ".join(DTYPES)}')
        score = self.pair_score
        pooled = score.kind == 'mean' or (targets and score.target == 'mean')
        special = 0 if score.special_tokens else 1
        ids = self._tokenised(texts)
        tokens = np.array([len(text) for text in ids], np.int32)
        vectors = np.ones_like(tokens) if pooled else tokens - 2 * special
        found = Embedded.empty(vectors, self._d, dtype)
        with Progress('embedding', len(texts), 'texts') as progress:
            for places, embeddings in self._embed(ids):
                embeddings = _means(embeddings, tokens[places], special) if pooled else embeddings[:, special:]
                found.fill(found.row[places], embeddings)
                progress.advance(len(places))
        return found

    def _tokenised(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, cut to `MAX_TOKENS`; says once that something was cut."""
        for place, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f'text {place}: {text!r}, expected a string that is not blank')
        ids = self._tokenizer.encode(texts)
        long = sum(len(text) > MAX_TOKENS for text in ids)
        if long and not self.truncated:
            logger.warning('%d of %d texts have more than %d tokens and are cut', long, len(texts), MAX_TOKENS)
        self.truncated += long
        return [truncated(text, MAX_TOKENS) for text in ids]

    def _embed(self, ids: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Token embeddings, texts of similar length together.

        Yields:
          places: [n]; which of the texts these are.
          embeddings: [n, L, d] float32, L one of `LENGTHS`.
        """
        padded = np.searchsorted(LENGTHS, [len(text) for text in ids])
        for size, tokens in enumerate(LENGTHS):
            places = np.flatnonzero(padded == size)
            most = TOKENS_PER_CALL // tokens
            for start in range(0, len(places), most):
                chosen = places[start : start + most]
                rows = next((few for few in FEW if len(chosen) <= few), most)
                rows = self.devices * -(-rows // self.devices)
                batch = pad([ids[place] for place in chosen] + [ids[chosen[0]]] * (rows - len(chosen)), tokens)
                yield chosen, self._encode(*batch)[: len(chosen)]

    def _encode(self, ids: Array, length: Array) -> np.ndarray:
        if self.mesh is None:
            return np.asarray(_encode(self._graphdef, self._params, ids, length, None))
        ids, length = mesh.put((ids, length), (mesh.rows(self.mesh),) * 2)
        return np.asarray(_encode(self._graphdef, self._params, ids, length, mesh.replicated(self.mesh)))


def _score_of(settings: pathlib.Path) -> Score:
    """What a score is, by the settings of an export; soft late interaction where there are none.

    Raises:
      ValueError: they are damaged.
    """
    if not settings.exists():
        return Score()
    try:
        return Score(**json.loads(settings.read_text())['score'])
    except ValueError as error:
        raise ValueError(f'{settings}: {error}') from error
    except (KeyError, TypeError) as error:
        raise ValueError(f'{settings}: damaged ({error!r}), expected the settings of an export') from error


def _means(embeddings: np.ndarray, length: np.ndarray, special: int) -> np.ndarray:
    """The mean of each text's tokens, `special` ones left out at both ends: [n, L, d], [n] -> [n, 1, d]; 0 of none."""
    position = np.arange(embeddings.shape[1])
    taking_part = (position >= special) & (position < length[:, None] - special)
    count = np.maximum(taking_part.sum(axis=1), 1)
    return (np.einsum('nld,nl->nd', embeddings, taking_part) / count[:, None])[:, None]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _encode(graphdef, params, ids, length, sharding):
    embeddings = nnx.merge(graphdef, params)(ids, length)
    return embeddings if sharding is None else jax.lax.with_sharding_constraint(embeddings, sharding)


@functools.partial(jax.jit, static_argnums=4)
def _attention(q, q_len, y, y_len, score):
    return attention(q, q_len, y, y_len, score)
