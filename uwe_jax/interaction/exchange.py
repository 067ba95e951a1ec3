"""Late interaction over the mesh: every device keeps its own queries, and all targets come by.

Three ways for the targets to come. With n devices, b targets a device and E the bytes of b targets' embeddings (those
of their float32 gradients are 2 E in bfloat16, E in float32), one device holds and sends, forward and backward:

    gather     all at once, kept for the backward pass        holds n E             sends (n-1) (E + gradients)
    regather   all at once, and once more in the backward     holds n E for a while sends (n-1) (2 E + gradients)
    ring       one device's targets at a time                 holds 2 E             sends (n-1) (2 E + gradients)

Besides, each device holds its rows of both scores and of their gradients, 4·b·n·b float32, in all of them.

In the ring, the embeddings at hand are sent on while they are scored. In the backward pass the gradient of a block of
targets travels one step behind it, collects what each device adds to it, and ends at home.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from uwe_jax.interaction.form import Form

EXCHANGES = ('gather', 'regather', 'ring')


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def scores(
    q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array, form: Form, exchange: str, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """The form's scores, of the global arrays.

    Args:
      q, y: [B_q, L_q, d], [B_y, L_y, d] token embeddings; on a mesh, rows sharded over all of its axes.
      q_mask, y_mask: [B_q, L_q], [B_y, L_y] bool.
      form: what a device computes with the rows that it has.
      exchange: how targets come to it; an element of `EXCHANGES`.
      mesh: of two devices or more; None where all rows are on one.

    Returns:
      over_y, over_q: [B_q, B_y] float32 each; on a mesh, rows sharded over all of its axes.
    """
    return _forward(q, q_mask, y, y_mask, form, exchange, mesh)[0]


def _forward(q, q_mask, y, y_mask, form, exchange, mesh):
    if mesh is None:
        return form.scores(q, q_mask, y, y_mask), (q, q_mask, y, y_mask)
    rows, axes = PartitionSpec(mesh.axis_names), mesh.axis_names

    def gathered(q, q_mask, y, y_mask):
        everywhere = jax.lax.all_gather((y, y_mask), axes, tiled=True)
        return form.scores(q, q_mask, *everywhere), everywhere if exchange == 'gather' else (y, y_mask)

    def ring(q, q_mask, y, y_mask):
        return _ring_scores(q, q_mask, y, y_mask, form, axes), (y, y_mask)

    kept = PartitionSpec() if exchange == 'gather' else rows
    local = ring if exchange == 'ring' else gathered
    found, targets = _on(mesh, local, rows, (rows, kept))(q, q_mask, y, y_mask)
    return found, (q, q_mask, *targets)


def _backward(form, exchange, mesh, residuals, cotangents):
    q, q_mask, y, y_mask = residuals
    if mesh is None:
        dq, dy = form.gradients(q, q_mask, y, y_mask, *cotangents)
        return dq.astype(q.dtype), None, dy.astype(y.dtype), None
    rows, axes = PartitionSpec(mesh.axis_names), mesh.axis_names

    def gathered(q, q_mask, y, y_mask, *g):
        if exchange == 'regather':
            # Tied to the cotangents, or the compiler would take the forward pass's gather and keep that.
            y, y_mask, g = jax.lax.optimization_barrier((y, y_mask, g))
            y, y_mask = jax.lax.all_gather((y, y_mask), axes, tiled=True)
        dq, dy = form.gradients(q, q_mask, y, y_mask, *g)
        return dq.astype(q.dtype), jax.lax.psum_scatter(dy, axes, tiled=True).astype(y.dtype)

    def ring(q, q_mask, y, y_mask, *g):
        dq, dy = _ring_gradients(q, q_mask, y, y_mask, g, form, axes)
        return dq.astype(q.dtype), dy.astype(y.dtype)

    kept = PartitionSpec() if exchange == 'gather' else rows
    local = ring if exchange == 'ring' else gathered
    dq, dy = _on(mesh, local, (rows, rows, kept, kept, rows, rows), rows)(q, q_mask, y, y_mask, *cotangents)
    return dq, None, dy, None


scores.defvjp(_forward, _backward)


def _on(mesh: Mesh, local: Any, in_specs: Any, out_specs: Any) -> Any:
    # What varies over the mesh is not tracked: no derivative is taken through the shard_map.
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _ring_scores(q, q_mask, y, y_mask, form, axes):
    """A device's rows of both scores: [b_q, n b_y] each."""
    devices, home = jax.lax.axis_size(axes), jax.lax.axis_index(axes)

    def score(found, step, block):
        column = (home + step) % devices * len(y)
        parts = form.scores(q, q_mask, *block)  # [b_q, b_y] each
        return jax.tree.map(lambda x, p: jax.lax.dynamic_update_slice_in_dim(x, p, column, 1), found, parts)

    def step(step, carry):
        found, block = carry
        following = _pass_on(block, axes)
        return score(found, step, block), following

    nothing = jnp.zeros((len(q), devices * len(y)), jnp.float32)
    found, block = jax.lax.fori_loop(0, devices - 1, step, ((nothing, nothing), (y, y_mask)))
    return score(found, devices - 1, block)


def _ring_gradients(q, q_mask, y, y_mask, g, form, axes):
    """A device's rows of dq and dy, float32. At step s it has the targets of the s-th device after it."""
    devices, home = jax.lax.axis_size(axes), jax.lax.axis_index(axes)

    def gradients(step, block):
        column = (home + step) % devices * len(y)
        return form.gradients(q, q_mask, *block, *(jax.lax.dynamic_slice_in_dim(x, column, len(y), 1) for x in g))

    block = _pass_on((y, y_mask), axes)
    dq, own = gradients(0, (y, y_mask))

    def step(step, carry):
        dq, block, dy = carry
        following, dy = _pass_on((block, dy), axes)
        dq_part, dy_part = gradients(step, block)
        return dq + dq_part, following, dy + dy_part

    # The first other device starts the gradient of a block of targets, and the last one has nobody to send them to.
    if devices > 2:
        following = _pass_on(block, axes)
        dq_part, dy = gradients(1, block)
        dq, block, dy = jax.lax.fori_loop(2, devices - 1, step, (dq + dq_part, following, dy))
        dy = _pass_on(dy, axes)
        dq_part, dy_part = gradients(devices - 1, block)
        dy = dy + dy_part
    else:
        dq_part, dy = gradients(1, block)
    return dq + dq_part, own + _pass_on(dy, axes)


def _pass_on(block, axes):
    """Sends what a device has to the one before it, and receives from the one after it."""
    devices = jax.lax.axis_size(axes)
    return jax.lax.ppermute(block, axes, [(i, (i - 1) % devices) for i in range(devices)])
