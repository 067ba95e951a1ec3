"""A model that ranks texts."""

import copy
import dataclasses
import functools
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32

from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.interaction import Score, Side, attention, check_says_who_attends, late_interaction
from uwe_jax.models import download, pretrained
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking.embedded import Embedded
from uwe_jax.ranking.embedder import Embedder
from uwe_jax.ranking.index import TargetIndex
from uwe_jax.ranking.scoring import padded_length
from uwe_jax.training.workdir import read_config, workdir_of

logger = logging.getLogger(__name__)

PAIRS_AT_A_TIME = 16


class AttentionMap(NamedTuple):
    """How the tokens of one query meet those of one target.

    Attributes:
      query_tokens, target_tokens: the word pieces of each text, <s> and </s> included.
      a: A, the weight of each pair of tokens, as `interaction.attention` returns it.
      c: C, their cosines.
      score: sim(query, target).
    """

    query_tokens: list[str]
    target_tokens: list[str]
    a: Float32[np.ndarray, 'q_tokens y_tokens']
    c: Float32[np.ndarray, 'q_tokens y_tokens']
    score: float


class Ranker(Embedder):
    """A model that ranks texts.

    >>> ranker = Ranker.from_pretrained('all-mpnet-base-v2')  # or an export of this project, or a training workdir
    >>> index = ranker.index(['SQL', 'bake bread', 'care for patients'])
    >>> [[best, second]] = index.rank(['pastry cook'], k=2)
    >>> best.text, round(best.score, 2), second.text
    ('bake bread', 0.36, 'care for patients')
    """

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        pooling: str = 'tokens',
        dtype: str = 'float32',
        attend: str | None = None,
        check: Callable[[Score], None] | None = None,
    ) -> 'Ranker':
        """Loads an export of this project, the newest checkpoint of a training run, or a plain MPNet model.

        Args:
          source: a directory, here or `gs://BUCKET/NAME`, or a name on the Hugging Face Hub.
          pooling: `tokens` scores as the export's settings say (a plain model by soft late interaction); `mean` by the
            cosine of mean-pooled vectors.
          dtype: of the encoder's products, float32 or bfloat16.
          attend: replaces the model's `score.attend`. A model of `from_skill` needs it in order to rank: `query` if the
            targets are skills, `target` if the queries are.
          check: is shown the score before the weights are read, and may raise ValueError to refuse it.

        Raises:
          ValueError: the pooling or `attend` is unknown, the score was refused, or a file of the model is damaged.
          FetchError: no source has the model.
          DataError: its bucket cannot be read.
        """
        if pooling not in ('tokens', 'mean'):
            raise ValueError(f'pooling: {pooling!r}, expected tokens or mean')
        workdir = workdir_of(source)
        if workdir is not None:
            from uwe_jax.training import checkpoint  # here, because Orbax takes seconds to import

            config = read_config(workdir)
            directory, score = download.fetch(config.init), config.score
        else:
            directory = download.fetch(str(source))
            score = _score_of(directory)
        if pooling == 'mean':
            score = Score(kind='mean')
        if attend is not None:
            score = dataclasses.replace(score, attend=attend)
        if check is not None:
            check(score)
        if workdir is not None:
            encoder = pretrained.abstract_encoder(directory, dtype=dtype, layers=config.model.layers)
            params, step = checkpoint.load_params(workdir)
            encoder = nnx.merge(nnx.graphdef(encoder), jax.tree.map(jnp.asarray, params))
            logger.info('Weights: %s after step %d', workdir, step)
        else:
            encoder = pretrained.load_encoder(directory, dtype=dtype)
        return cls(encoder, Tokenizer.from_pretrained(directory), score)

    def with_score(self, score: Score) -> 'Ranker':
        """The same model with another score. The parameters are shared."""
        if score == self.pair_score:
            return self
        other = copy.copy(self)
        for name in ('fingerprint', 'vectors_fingerprint'):
            other.__dict__.pop(name, None)
        other.pair_score = score
        return other

    def facing(self, skills: Side) -> 'Ranker':
        """The same model for a task in which these are the skills, see `Score.facing`."""
        return self.with_score(self.pair_score.facing(skills))

    def index(self, texts: Sequence[str], ids: Sequence | None = None, dtype: str = 'float32') -> TargetIndex:
        """Embeds a target space, which can then be ranked for any query.

        Args:
          texts: the target space. Equal texts are separate targets.
          ids: the name of each target; by default its position.
          dtype: of the stored vectors: float32, bfloat16, or int8 with a scale for each.

        Raises:
          ValueError: there is no text, the numbers of texts and ids differ, a text is blank or not a string, the dtype
            is unknown, or nothing says which side attends (see `from_pretrained`).
        """
        check_says_who_attends(self.pair_score)
        if not texts or (ids is not None and len(texts) != len(ids)):
            count = len(texts if ids is None else ids)
            raise ValueError(f'index: {len(texts)} texts and {count} ids, expected equal numbers, at least one')
        ids = range(len(texts)) if ids is None else ids
        return TargetIndex(self, texts, ids, self.embed(texts, 'target', dtype))

    def kept_index(self, texts: Sequence[str], path: pathlib.Path, dtype: str = 'float32') -> TargetIndex:
        """As `index`, but loads what an earlier call kept at `path`, whose texts the caller should compare.

        Raises:
          ValueError: as `index` and `TargetIndex.load`.
          OSError: the path cannot be written.
        """
        if path.exists():
            return TargetIndex.load(path, self)
        index = self.index(texts, dtype=dtype)
        try:
            index.save(path)
        except OSError:
            if not path.exists():  # otherwise another process has saved the same index
                raise
        logger.info('kept the embedded targets in %s', path)
        return index

    def score(self, queries: Sequence[str], targets: Sequence[str]) -> Float32[np.ndarray, 'queries targets']:
        """sim(q, y) of every query and target."""
        return self.index(targets).score(queries)

    def score_pairs(self, queries: Sequence[str], targets: Sequence[str]) -> Float32[np.ndarray, ' pairs']:
        """sim(q, y) of the first query and the first target, of the second ones, and so on.

        Raises:
          ValueError: there are more of one than of the other, nothing says which side attends, or a text is blank.
        """
        if len(queries) != len(targets):
            raise ValueError(f'pairs: {len(queries)} queries and {len(targets)} targets, expected equal numbers')
        score = self.stored_score
        q, y = self.embed(queries, 'query'), self.embed(targets, 'target')
        scores = np.zeros(len(queries), np.float32)
        for start in range(0, len(queries), PAIRS_AT_A_TIME):
            pairs = np.arange(start, min(start + PAIRS_AT_A_TIME, len(queries)))
            sides = (_padded_pairs(side, side.row[pairs]) for side in (q, y))
            scores[pairs] = np.asarray(_pair_scores(*itertools.chain(*sides), score))[: len(pairs)]
        return scores

    def attention(self, query: str, target: str) -> AttentionMap:
        """A, C and the score of one pair of texts, token by token.

        Raises:
          ValueError: the score has no attention between tokens, nothing says which side attends, or a text is blank.
        """
        check_says_who_attends(self.pair_score)
        ids = self._tokenise([query, target])
        sides = np.zeros((2, MAX_TOKENS, self.d), np.float32)
        for places, start, embeddings in self._encoded(ids):
            for text, first in zip(places, start, strict=True):
                sides[text, : len(ids[text])] = embeddings[first : first + len(ids[text])]
        (q, y), (q_len, y_len) = sides[:, None], (np.array([len(text)], np.int32) for text in ids)
        a, c, score = _attention(q, q_len, y, y_len, self.pair_score)
        a, c = (np.asarray(x)[0, : len(ids[0]), : len(ids[1])] for x in (a, c))
        query_tokens, target_tokens = map(self._tokenizer.tokens, ids)
        return AttentionMap(query_tokens, target_tokens, a, c, float(score[0]))


def _score_of(directory: pathlib.Path) -> Score:
    """The score that an export's settings describe; of a plain model, soft late interaction by both sides.

    Raises:
      ValueError: the settings are damaged, or those of an export are missing.
    """
    settings = directory / pretrained.SETTINGS
    if not settings.exists():
        if pretrained.is_export(directory):
            raise ValueError(f'{settings}: missing, but it says how this model scores; copy it from the export')
        return Score(attend='both')
    try:
        return Score(**json.loads(settings.read_text())['score'])
    except ValueError as error:
        raise ValueError(f'{settings}: {error}') from error
    except (KeyError, TypeError) as error:
        raise ValueError(f'{settings}: damaged ({error!r}), expected the settings of an export') from error


def _padded_pairs(side: Embedded, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One side of `PAIRS_AT_A_TIME` pairs, so that few programs are compiled, with the lengths of its texts."""
    x, length = side.padded(rows, padded_length(int(side.length[rows].max())))
    missing = PAIRS_AT_A_TIME - len(rows)
    return np.pad(x, [(0, missing), (0, 0), (0, 0)]), np.pad(length, (0, missing))


@functools.partial(jax.jit, static_argnums=4)
def _pair_scores(q, q_len, y, y_len, score):
    def of_pair(q, q_len, y, y_len):
        scores, _ = late_interaction(q[None], q_len[None], y[None], y_len[None], score, form='reference')
        return scores[0, 0]

    return jax.vmap(of_pair)(q, q_len, y, y_len)


_attention = jax.jit(attention, static_argnums=4)
