"""Late interaction as the paper writes it: the oracle for every faster form. Works in float64 too."""

import jax
import jax.numpy as jnp

from uwe_jax.interaction.score import Score, inverse_norm


def scores(q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array, score: Score) -> tuple[jax.Array, ...]:
    """Scores every query against every target, in both directions.

        R = E_q E_yᵀ    C = cosines    A = softmax(R / τ) over one side's tokens    sim = Σ_ij A_ij C_ij

    All of R, A and C is stored, B_q L_q B_y L_y numbers each: use it for small inputs.

    Args:
      q, y: [B_q, L_q, d], [B_y, L_y, d] token embeddings.
      q_mask, y_mask: [B_q, L_q], [B_y, L_y] bool; the tokens that take part.
      score: its `kind` is soft or maxsim.

    Returns:
      over_y, over_q: the sums with A over the target's tokens and with A over the query's; [B_q, B_y] each, in float32
      at least.
    """
    r = token_products(q, y)  # [B_q, L_q, B_y, L_y]
    c = r * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    pair = q_mask[:, :, None, None] & y_mask
    over_y = token_weights(r, c, pair, score, axis=3)
    over_q = token_weights(r, c, pair, score, axis=1)
    return jnp.sum(over_y * c, axis=(1, 3)), jnp.sum(over_q * c, axis=(1, 3))  # [B_q, B_y] each


def token_products(q: jax.Array, y: jax.Array) -> jax.Array:
    """R, the products of all token pairs: [B_q, L_q, d], [B_y, L_y, d] -> [B_q, L_q, B_y, L_y], in float32 at least.

    An error e in a product is e / τ_a in the softmax's exponent, so float32 inputs are multiplied in full precision
    and the sums of half-precision ones are kept in float32.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum('qid,yjd->qiyj', q, y, preferred_element_type=wide, precision=jax.lax.Precision.HIGHEST)


def token_weights(r: jax.Array, c: jax.Array, pair: jax.Array, score: Score, axis: int) -> jax.Array:
    """A: how much each token along `axis` counts; every line sums to 1, or to 0 where no token takes part.

    Masked entries are given a large negative number rather than -inf, which would make the gradient of a line that is
    masked whole NaN.
    """
    lowest = jnp.finfo(r.dtype).min / 4
    if score.kind == 'maxsim':
        best = jnp.argmax(jnp.where(pair, c, lowest), axis=axis)
        weights = jax.nn.one_hot(best, r.shape[axis], axis=axis, dtype=r.dtype)
    else:
        weights = jax.nn.softmax(jnp.where(pair, r / score.temperature, lowest), axis=axis)
    return jnp.where(pair, weights, 0.0)
