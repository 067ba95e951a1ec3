"""The public function: choose the form, and score all pairs of a (sharded) batch."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from uwe_jax.interaction import blockwise, reference
from uwe_jax.interaction.score import Score, inverse_norm, participating, widen

FORMS = {
    'reference': lambda q, q_mask, y, y_mask, score, block: reference.late_interaction(q, q_mask, y, y_mask, score),
    'blockwise': blockwise.late_interaction,
}


def late_interaction(
    q: jax.Array,
    q_len: jax.Array,
    y: jax.Array,
    y_len: jax.Array,
    score: Score,
    *,
    form: str = 'blockwise',
    block: tuple[int, int] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Scores every query against every target in both directions (paper, section 3.2).

    Args:
      q: [B_q, L_q, d] token embeddings of the queries, float32 or bfloat16.
      q_len: [B_q] int32; tokens of each query, <s> and </s> included. A text without a participating token scores 0.
      y: [B_y, L_y, d] token embeddings of the targets.
      y_len: [B_y] int32.
      score: what a score is.
      form: a key of `FORMS`; all give the same values and gradients.
      block: queries and targets a block, for forms that take blocks.
      mesh: if given, both sides' rows are sharded over all its axes, and so are the rows of the results: each device
        gathers the targets and scores its own queries.

    Returns:
      s_qy, s_yq: [B_q, B_y] float32 each, both indexed [q, y]; s_qy is sim(q, y), s_yq is sim(y, q), the roles changed.

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

    pairs = functools.partial(FORMS[form], score=score, block=block)
    if mesh is not None and mesh.size > 1:
        pairs = _on_own_rows(pairs, mesh)
    over_y, over_q = pairs(q, q_mask, y, y_mask)
    return (over_y, over_q) if score.attend == 'target' else (over_q, over_y)


def _on_own_rows(pairs, mesh):
    """The same function on a mesh: each device scores its own queries against the targets of all devices.

    The transposition of the gather sends each target's gradient home and adds up what all devices contribute.
    """
    rows = PartitionSpec(mesh.axis_names)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=rows)
    def own_rows(q, q_mask, y, y_mask):
        y, y_mask = jax.lax.all_gather((y, y_mask), mesh.axis_names, tiled=True)
        return pairs(q, q_mask, y, y_mask)

    return own_rows


def _pool(x, mask):
    """The mean of the participating tokens: [B, L, d], [B, L] -> [B, d]; 0 where none takes part."""
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    return jnp.sum(jnp.where(mask[..., None], widen(x), 0), axis=1) / count


def _unit(x):
    return x * inverse_norm(x)[..., None]


def _against_means(x, x_mask, target, target_mask, score):
    """sim(x, target) with the target mean-pooled: cosines of x's tokens with one vector a target, [B_x, B_target]."""
    unit = jnp.where(x_mask[..., None], _unit(widen(x)), 0)
    weight = reference.text_weights(x_mask, score)
    return jnp.einsum(
        'xid,yd->xy', unit * weight[:, None, None], _unit(_pool(target, target_mask)), precision='highest'
    )
