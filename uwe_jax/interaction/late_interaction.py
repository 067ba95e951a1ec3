"""The public function: choose the form and the exchange, and score all pairs of a (sharded) batch."""

from typing import Any

import jax
import jax.numpy as jnp

from uwe_jax.interaction import exchange as exchanges
from uwe_jax.interaction import reference
from uwe_jax.interaction.exchange import EXCHANGES
from uwe_jax.interaction.form import FORMS, Form
from uwe_jax.interaction.score import Score, attending_tokens, inverse_norm, participating, widen


def late_interaction(
    q: jax.Array,
    q_len: jax.Array,
    y: jax.Array,
    y_len: jax.Array,
    score: Score,
    *,
    form: str = 'blockwise',
    exchange: str = 'gather',
    block_entries: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Scores every query against every target in both directions (paper, section 3.2).

        sim(q, y) = Σ_i Σ_j A_ij C_ij / n_q      R = E_q E_yᵀ, C = cosines, A = softmax(R / τ_a) over the tokens of y

    and sim(y, q) with the roles changed, from the same R. n_q, the number of q's tokens, is 1 where `reduce` is `sum`.
    But for the reference, forms store no array of the size of all token pairs: the inputs are kept for the backward
    pass, which computes R again.

    Args:
      q: [B_q, L_q, d] token embeddings of the queries, float32 or bfloat16.
      q_len: [B_q] int32; tokens of each query, <s> and </s> included. A text without a participating token scores 0.
      y: [B_y, L_y, d] token embeddings of the targets.
      y_len: [B_y] int32.
      score: what a score is.
      form: `reference`, as the formula says; `blockwise`, XLA on one block of R after another; or `kernel`, a Pallas
        kernel where there is one for the devices and shapes. All give the same values and gradients.
      exchange: on a mesh, how the targets come to each device, see `exchange.py`. For the reference, and where a side
        is mean-pooled, XLA's partitioner decides.
      block_entries: pairs of tokens a block of the blockwise form holds at most; 0 takes a number that suits the
        devices, see `blockwise.py`.
      mesh: if given, both sides' rows are sharded over all its axes, and so are the rows of the results.

    Returns:
      s_qy, s_yq: [B_q, B_y] float32 each, both indexed [q, y]; s_qy is sim(q, y), s_yq is sim(y, q), the roles changed.

    Raises:
      ValueError: the form or the exchange is unknown.
    """
    for field, value, known in (('form', form, FORMS), ('exchange', exchange, EXCHANGES)):
        if value not in known:
            raise ValueError(f'interaction.{field}: {value!r}, expected one of {", ".join(known)}')
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
        platform = mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()
        mesh = mesh if mesh is not None and mesh.size > 1 else None
        how = Form(form, score, block_entries, platform)
        sums: Any = exchanges.scores(q, q_mask, y, y_mask, how, exchange, mesh)
        over_y, over_q = sums
    return (over_y, over_q) if score.attend == 'target' else (over_q, over_y)


def _pool(x, mask):
    """The mean of the participating tokens: [B, L, d], [B, L] -> [B, d]; 0 where none takes part."""
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return jnp.sum(jnp.where(mask[..., None], widen(x), 0), axis=1) / count


def _unit(x):
    return x * inverse_norm(x)[..., None]


def _against_means(x, x_mask, target, target_mask, score):
    """sim(x, target) with the target mean-pooled: cosines of x's tokens with one vector a target, [B_x, B_target]."""
    unit = jnp.where(x_mask[..., None], _unit(widen(x)), 0)
    sums = jnp.einsum('xid,yd->xy', unit, _unit(_pool(target, target_mask)), precision='highest')
    return sums / attending_tokens(x_mask, score)[:, None]
