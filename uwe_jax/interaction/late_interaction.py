"""The public function: scores all pairs of a batch in the form that is asked for."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from uwe_jax.interaction import reference
from uwe_jax.interaction.form import FORMS, Form
from uwe_jax.interaction.score import Score, attending_tokens, inverse_norm, participating, widen


def late_interaction(
    q: Float[Array, 'q_texts q_tokens d'],
    q_len: Int[Array, ' q_texts'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_len: Int[Array, ' y_texts'],
    score: Score,
    *,
    form: str = 'blockwise',
    block_entries: int = 0,
    platform: str | None = None,
) -> tuple[Float[Array, 'q_texts y_texts'], Float[Array, 'q_texts y_texts']]:
    """Scores every query against every target in both directions (paper, section 3.2).

        S = Σ_i Σ_j A_ij C_ij / n_q      R = E_q E_yᵀ, C = cosines, A = softmax(R / τ_a) over the tokens of y

    says how well q's tokens, which attend to y's, are matched in y. T, from the same R, says how well y's tokens are
    matched in q. n_q is the number of q's tokens, or 1 if `score.reduce` is `sum`. The paper writes the sum; the mean
    is our default, see `configs/uwe.py`. `score.attend` says what the scores are:

        attend        sim(q, y)      sim(y, q)
        target        S              T              as published: the text that comes first attends
        query         T              S              the text that comes second attends
        both          (S + T) / 2    (S + T) / 2    symmetric
        from_skill    S              S              q, the skill, attends in both directions

    Every form gives the same values and gradients. All but the reference keep only the inputs for the backward pass,
    which computes R again, so that no array has an entry for every pair of tokens.

    One query of one token against one target of two, with attend='target'. R = C = [1, 0], so sim(q, y) = e / (e + 1).
    The other way round, each of y's tokens has only one token to attend to: sim(y, q) is the mean of 1 and 0.

        >>> import jax.numpy as jnp
        >>> from uwe_jax.interaction import Score, late_interaction
        >>> q = jnp.array([[[1.0, 0.0]]])
        >>> y = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])
        >>> s_qy, s_yq = late_interaction(q, jnp.array([1]), y, jnp.array([2]), Score(temperature=1.0))
        >>> print(s_qy.round(3), s_yq.round(3))
        [[0.731]] [[0.5]]

    Args:
      q, y: token embeddings of the queries and of the targets, float32 or bfloat16.
      q_len, y_len: tokens of each text, <s> and </s> included. A text without a participating token scores 0.
      score: what a score is.
      form: `reference`, literally the formula; `blockwise`, XLA on one block of R after another; or `kernel`, a Pallas
        kernel on TPUs, for the shapes that it supports.
      block_entries: pairs of tokens per block of the blockwise form; 0 takes a number that suits the platform.
      platform: of the device, as JAX names it; by default that of JAX's default backend.

    Returns:
      s_qy, s_yq: sim(q, y) and sim(y, q), both indexed [q, y]; float32 unless q and y are float64.

    Raises:
      ValueError: the form is unknown.
    """
    if form not in FORMS:
        raise ValueError(f'interaction.form: {form!r}, expected one of {", ".join(FORMS)}')
    q_mask = participating(q_len, q.shape[1], score.special_tokens)
    y_mask = participating(y_len, y.shape[1], score.special_tokens)
    if score.kind == 'mean':
        cosines = jnp.einsum('qd,yd->qy', _unit(_pool(q, q_mask)), _unit(_pool(y, y_mask)), precision='highest')
        return cosines, cosines
    if score.target == 'mean':
        return _against_means(q, q_mask, y, y_mask, score), _against_means(y, y_mask, q, q_mask, score).T

    if form == 'reference':
        over_y, over_q = reference.scores(q, q_mask, y, y_mask, score)
        over_y = over_y / attending_tokens(q_mask, score)[:, None]
        over_q = over_q / attending_tokens(y_mask, score)
    else:
        how = Form(form, score, block_entries, platform or jax.default_backend())
        sums: Any = _scores(q, q_mask, y, y_mask, how)
        over_y, over_q = sums
    s_qy = score.combine(over_y, over_q)
    return s_qy, s_qy if score.attend == 'from_skill' else score.combine(over_q, over_y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scores(q, q_mask, y, y_mask, form):
    return form.scores(q, q_mask, y, y_mask)


def _forward(q, q_mask, y, y_mask, form):
    return _scores(q, q_mask, y, y_mask, form), (q, q_mask, y, y_mask)


def _backward(form, inputs, cotangents):
    q, _, y, _ = inputs
    dq, dy = form.gradients(*inputs, *cotangents)
    return dq.astype(q.dtype), None, dy.astype(y.dtype), None


_scores.defvjp(_forward, _backward)


def _pool(x, mask):
    """The mean of the participating tokens, 0 if there are none: [B, L, d], [B, L] -> [B, d]."""
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return jnp.sum(jnp.where(mask[..., None], widen(x), 0), axis=1) / count


def _unit(x):
    return x * inverse_norm(x)[..., None]


def _against_means(x, x_mask, target, target_mask, score):
    """sim(x, target) with the target mean-pooled: cosines of x's tokens with one vector per target, [B_x, B_target]."""
    unit = jnp.where(x_mask[..., None], _unit(widen(x)), 0)
    sums = jnp.einsum('xid,yd->xy', unit, _unit(_pool(target, target_mask)), precision='highest')
    return sums / attending_tokens(x_mask, score)[:, None]
