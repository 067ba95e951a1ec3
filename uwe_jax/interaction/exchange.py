"""Late interaction over the mesh: the queries stay on their devices, and the targets are exchanged.

There are three ways. Let n be the number of devices, b the targets per device, and E the bytes of their embeddings (the
float32 gradients take 2 E if embeddings are bfloat16, E if they are float32). Then a device holds and sends, in the
forward and backward pass together:

    gather     all targets at once, kept for the backward pass    holds n E            sends (n-1) (E + gradients)
    regather   all targets at once, again in the backward pass    holds n E for a time sends (n-1) (2 E + gradients)
    ring       the targets of one device at a time                holds 2 E            sends (n-1) (2 E + gradients)

In all three a device also holds its rows of both scores and of their gradients, 4 b·nb float32.

In the ring, a device sends a block of targets on while it scores them. In the backward pass the gradient of a block
travels one step behind the block, each device adds its part, and the last one sends the sum home.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32

from uwe_jax.interaction.form import Form

EXCHANGES = ('gather', 'regather', 'ring')


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def scores(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    form: Form,
    exchange: str,
    mesh: Mesh | None,
) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
    """Equals `Form.scores`, on arrays whose rows are sharded over all axes of the mesh; the results are sharded alike.

    Args:
      q, q_mask, y, y_mask: the global arrays.
      form: what each device computes on its rows.
      exchange: how it gets the targets; an element of `EXCHANGES`.
      mesh: of two devices or more; None if all rows are on one device.
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
    scores, targets = _on(mesh, local, rows, (rows, kept))(q, q_mask, y, y_mask)
    return scores, (q, q_mask, *targets)


def _backward(form, exchange, mesh, residuals, cotangents):
    q, q_mask, y, y_mask = residuals
    if mesh is None:
        dq, dy = form.gradients(q, q_mask, y, y_mask, *cotangents)
        return dq.astype(q.dtype), None, dy.astype(y.dtype), None
    rows, axes = PartitionSpec(mesh.axis_names), mesh.axis_names

    def gathered(q, q_mask, y, y_mask, *g):
        if exchange == 'regather':
            # Tied to the cotangents; otherwise the compiler would keep the targets gathered in the forward pass.
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
    # Replication is not checked: no derivative is taken through the shard_map, so nothing depends on it.
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _ring_scores(q, q_mask, y, y_mask, form, axes):
    """A device's rows of both scores: [b_q, n b_y] each."""
    devices, home = jax.lax.axis_size(axes), jax.lax.axis_index(axes)

    def score(step, block, rows):
        column = (home + step) % devices * len(y)
        parts = form.scores(q, q_mask, *block)  # [b_q, b_y] each
        return jax.tree.map(lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, column, 1), rows, parts)

    def score_and_pass_on(step, carry):
        rows, block = carry
        following = _pass_on(block, axes)
        return score(step, block, rows), following

    zeros = jnp.zeros((len(q), devices * len(y)), jnp.float32)
    rows, block = jax.lax.fori_loop(0, devices - 1, score_and_pass_on, ((zeros, zeros), (y, y_mask)))
    return score(devices - 1, block, rows)


def _ring_gradients(q, q_mask, y, y_mask, g, form, axes):
    """A device's rows of dq and dy, float32. At step s it holds the targets of the s-th device after it."""
    devices, home = jax.lax.axis_size(axes), jax.lax.axis_index(axes)

    def gradients(step, block):
        column = (home + step) % devices * len(y)
        return form.gradients(q, q_mask, *block, *(jax.lax.dynamic_slice_in_dim(x, column, len(y), 1) for x in g))

    block = _pass_on((y, y_mask), axes)
    dq, dy_at_home = gradients(0, (y, y_mask))

    def add_and_pass_on(step, carry):
        dq, block, dy = carry
        following, dy = _pass_on((block, dy), axes)
        dq_part, dy_part = gradients(step, block)
        return dq + dq_part, following, dy + dy_part

    # A block's gradient starts on the first device that receives the block, and the last device sends it home.
    if devices > 2:
        following = _pass_on(block, axes)
        dq_part, dy = gradients(1, block)
        dq, block, dy = jax.lax.fori_loop(2, devices - 1, add_and_pass_on, (dq + dq_part, following, dy))
        dy = _pass_on(dy, axes)
        dq_part, dy_part = gradients(devices - 1, block)
        dy = dy + dy_part
    else:
        dq_part, dy = gradients(1, block)
    return dq + dq_part, dy_at_home + _pass_on(dy, axes)


def _pass_on(block, axes):
    """Sends a block to the device before this one, and returns the block of the device after it."""
    devices = jax.lax.axis_size(axes)
    return jax.lax.ppermute(block, axes, [(i, (i - 1) % devices) for i in range(devices)])
