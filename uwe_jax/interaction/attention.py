"""Single pairs to look at: which tokens meet, and how spread the attention is."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uwe_jax.interaction.reference import token_weights
from uwe_jax.interaction.score import Score, attending_tokens, has_attention, inverse_norm, participating


def attention(
    q: Float[Array, 'pairs q_tokens d'],
    q_len: Int[Array, ' pairs'],
    y: Float[Array, 'pairs y_tokens d'],
    y_len: Int[Array, ' pairs'],
    score: Score,
) -> tuple[Float[Array, 'pairs q_tokens y_tokens'], Float[Array, 'pairs q_tokens y_tokens'], Float[Array, ' pairs']]:
    """A, C and the score of single pairs: query p with target p. Under `from_skill`, the queries are the skills.

    Args:
      q, y: token embeddings.
      q_len, y_len: tokens of each text, <s> and </s> included.
      score: one with attention between tokens (see `has_attention`).

    Returns:
      A, which is 0 where a token takes no part; C; and sim(q, y), which is Σ A C / Σ A, or Σ A C if `score.reduce` is
      `sum`. The weights of each attending token sum to 1. Where the tokens of `both` sides attend, A is the mean of two
      such matrices; unless `reduce` is `sum`, that of the longer text is first scaled down to the sum of the other.

    Raises:
      ValueError: the score has no attention between tokens.
    """
    over_y, over_q, c, q_mask, y_mask = _weights(q, q_len, y, y_len, score)
    q_count, y_count = attending_tokens(q_mask, score), attending_tokens(y_mask, score)
    count = jnp.minimum(q_count, y_count) if score.attend == 'both' else score.combine(q_count, y_count)
    over_y, over_q = over_y * (count / q_count)[:, None, None], over_q * (count / y_count)[:, None, None]
    a = score.combine(over_y, over_q)
    return a, c, jnp.sum(a * c, axis=(1, 2)) / count


def mean_entropy(
    q: Float[Array, 'pairs q_tokens d'],
    q_len: Int[Array, ' pairs'],
    y: Float[Array, 'pairs y_tokens d'],
    y_len: Int[Array, ' pairs'],
    score: Score,
) -> Float[Array, '']:
    """How evenly attention is spread, for pairs as `attention` takes them: 1 is uniform, 0 picks one token.

    It is the mean of H / log L over the attending tokens that have L ≥ 2 tokens to choose among, H the entropy of their
    weights; 0 if there are none. A fall to 0 or a rise to 1 is the first sign that soft late interaction has stopped
    weighing tokens.
    """
    over_y, over_q, _, q_mask, y_mask = _weights(q, q_len, y, y_len, score)
    total: Any = 0.0
    count: Any = 0
    for attends, a, attending, choices in (
        (score.query_attends, over_y, q_mask, y_mask.sum(axis=1)),
        (score.target_attends, over_q.swapaxes(1, 2), y_mask, q_mask.sum(axis=1)),
    ):
        if attends:
            entropy = -jnp.sum(jnp.where(a > 0, a * jnp.log(jnp.where(a > 0, a, 1.0)), 0.0), axis=2)
            share = entropy / jnp.log(jnp.maximum(choices, 2))[:, None]
            counted = attending & (choices >= 2)[:, None]
            total += jnp.sum(jnp.where(counted, share, 0.0))
            count += counted.sum()
    return total / jnp.maximum(count, 1)


def _weights(q, q_len, y, y_len, score):
    """A with the softmax over the target's tokens, A over the query's, C, and the tokens of each side that take part.

    Raises:
      ValueError: the score has no attention between tokens.
    """
    if not has_attention(score):
        raise ValueError(f'score: kind {score.kind!r} with target {score.target!r} has no attention between tokens')
    q_mask = participating(q_len, q.shape[1], score.special_tokens)
    y_mask = participating(y_len, y.shape[1], score.special_tokens)
    r = jnp.einsum('pid,pjd->pij', q, y, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)
    c = r * inverse_norm(q)[:, :, None] * inverse_norm(y)[:, None, :]
    pair = q_mask[:, :, None] & y_mask[:, None, :]
    over_y, over_q = (token_weights(r, c, pair, score, axis=axis) for axis in (2, 1))
    return over_y, over_q, c, q_mask, y_mask
