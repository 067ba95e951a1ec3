"""Late interaction as the paper writes it: the oracle for every faster form. Works in float64 too."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from uwe_jax.interaction.score import Score, inverse_norm


def scores(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    score: Score,
) -> tuple[Float[Array, 'q_texts y_texts'], Float[Array, 'q_texts y_texts']]:
    """Scores every query against every target, in both directions (paper, section 3.2).

        R = E_q E_yᵀ    C = cosines    A = softmax(R / τ_a) over one side's tokens    sim = Σ_ij A_ij C_ij

    R, A and C are stored whole, one number per pair of tokens each, so this is for small inputs.

    Args:
      q, y: token embeddings.
      q_mask, y_mask: the tokens that take part.
      score: of kind `soft` or `maxsim`; its `reduce`, `attend` and `special_tokens` are up to the caller.

    Returns:
      over_y, over_q: the sums with A over the target's tokens and with A over the query's, in float32 at least.
    """
    r = token_products(q, y)
    c = r * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    pair = q_mask[:, :, None, None] & y_mask
    over_y = token_weights(r, c, pair, score, axis=3)
    over_q = token_weights(r, c, pair, score, axis=1)
    return jnp.sum(over_y * c, axis=(1, 3)), jnp.sum(over_q * c, axis=(1, 3))


def token_products(
    q: Float[Array, 'q_texts q_tokens d'], y: Float[Array, 'y_texts y_tokens d']
) -> Float[Array, 'q_texts q_tokens y_texts y_tokens']:
    """R, the products of all pairs of tokens, in float32 at least.

    An error e in a product is e / τ_a in the softmax's exponent, so float32 inputs are multiplied in full precision
    and products of half-precision inputs are summed in float32.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum('qid,yjd->qiyj', q, y, preferred_element_type=wide, precision=jax.lax.Precision.HIGHEST)


def token_weights(
    r: Float[Array, '*pairs'], c: Float[Array, '*pairs'], pair: Bool[Array, '*pairs'], score: Score, axis: int
) -> Float[Array, '*pairs']:
    """A: how much each token along `axis` counts; every line sums to 1, or to 0 where no token takes part.

    Masked entries get a large negative logit rather than -inf, with which the gradient of a line that is masked whole
    would be NaN.
    """
    lowest = jnp.finfo(r.dtype).min / 4
    if score.kind == 'maxsim':
        best = jnp.argmax(jnp.where(pair, c, lowest), axis=axis)
        weights = jax.nn.one_hot(best, r.shape[axis], axis=axis, dtype=r.dtype)
    else:
        weights = jax.nn.softmax(jnp.where(pair, r / score.temperature, lowest), axis=axis)
    return jnp.where(pair, weights, 0.0)
