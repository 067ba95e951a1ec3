"""Single pairs to look at: which tokens meet, and how spread the attention is."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uwe_jax.interaction.reference import token_weights
from uwe_jax.interaction.score import Score, attending_tokens, inverse_norm, participating


def attention(
    q: Float[Array, 'pairs q_tokens d'],
    q_len: Int[Array, ' pairs'],
    y: Float[Array, 'pairs y_tokens d'],
    y_len: Int[Array, ' pairs'],
    score: Score,
) -> tuple[Float[Array, 'pairs q_tokens y_tokens'], Float[Array, 'pairs q_tokens y_tokens'], Float[Array, ' pairs']]:
    """A, C and the score of single pairs: query p with target p.

    Args:
      q, y: token embeddings.
      q_len, y_len: tokens of each text, <s> and </s> included.
      score: one with attention between tokens (see `has_attention`).

    Returns:
      A, which is 0 where a token takes no part; C; and sim(q, y).

    Raises:
      ValueError: the score has no attention between tokens.
    """
    if not has_attention(score):
        raise ValueError(f'score: kind {score.kind!r} with target {score.target!r} has no attention between tokens')
    q_mask = participating(q_len, q.shape[1], score.special_tokens)
    y_mask = participating(y_len, y.shape[1], score.special_tokens)
    r = jnp.einsum('pid,pjd->pij', q, y, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)
    c = r * inverse_norm(q)[:, :, None] * inverse_norm(y)[:, None, :]
    over, attending = (2, q_mask) if score.attend == 'target' else (1, y_mask)
    a = token_weights(r, c, q_mask[:, :, None] & y_mask[:, None, :], score, axis=over)
    return a, c, jnp.sum(a * c, axis=(1, 2)) / attending_tokens(attending, score)


def has_attention(score: Score) -> bool:
    """Whether tokens are weighed against each other."""
    return score.kind != 'mean' and score.target == 'tokens'


def mean_entropy(
    q: Float[Array, 'pairs q_tokens d'],
    q_len: Int[Array, ' pairs'],
    y: Float[Array, 'pairs y_tokens d'],
    y_len: Int[Array, ' pairs'],
    score: Score,
) -> Float[Array, '']:
    """How evenly attention is spread, for pairs as `attention` takes them: 1 is uniform, 0 picks one token.

    It is the mean of H(A_i) / log L over the lines A_i that have L ≥ 2 tokens to choose among; 0 if there are none. A
    fall to 0 or a rise to 1 is the first sign that soft late interaction has stopped weighing tokens.
    """
    a, _, _ = attention(q, q_len, y, y_len, score)
    if score.attend == 'query':  # lines run over the query's tokens
        a, (q_len, y_len) = a.swapaxes(1, 2), (y_len, q_len)
    attending = participating(q_len, a.shape[1], score.special_tokens)
    choices = participating(y_len, a.shape[2], score.special_tokens).sum(axis=1)
    entropy = -jnp.sum(jnp.where(a > 0, a * jnp.log(jnp.where(a > 0, a, 1.0)), 0.0), axis=2)  # [P, lines]
    counted = attending & (choices >= 2)[:, None]
    share = entropy / jnp.log(jnp.maximum(choices, 2))[:, None]
    return jnp.sum(jnp.where(counted, share, 0.0)) / jnp.maximum(counted.sum(), 1)
