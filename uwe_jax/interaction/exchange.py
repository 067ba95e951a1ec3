"""Late interaction over the mesh: the targets stay on their devices, and the queries are exchanged.

In training the queries are the skills, which are short, and which meet the targets of all graphs. So they are sent
once for all graphs, a sixth of the tokens that the three sides of targets are padded to. There are two ways. Let n be
the number of devices, and E the bytes of a device's queries (their float32 gradients take 2 E if they are bfloat16, E
if they are float32). Then a device holds and sends, in the forward and backward pass together:

    gather     all queries at once, kept for the backward pass    holds n E    sends (n-1) (E + gradients)
    ring       the queries of one device at a time                holds 2 E    sends (n-1) (2 E + gradients)

With either, a device also holds its columns of the scores and of their gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from uwe_jax.interaction.score import widen


def exchanged(
    interact: Callable,
    q: Float[Array, 'q_texts q_tokens d'],
    q_len: Int[Array, ' q_texts'],
    y: PyTree,
    y_len: PyTree,
    *,
    exchange: str,
    mesh: Mesh,
) -> Any:
    """Equals `interact(q, q_len, y, y_len)`, on arrays whose first axis is sharded over all axes of the mesh.

    The gradients of the devices are summed in float32.

    Args:
      interact: scores every query against every target, each pair on its own; returns a tree of arrays indexed
        [query, target].
      q, q_len: embeddings of the queries, and the tokens of each.
      y, y_len: the same of the targets: arrays, or trees of them.
      exchange: how a device gets the queries of the others; an element of `EXCHANGES`.
      mesh: the devices.

    Returns:
      What `interact` returns, with the second axis sharded over all axes of the mesh.

    Raises:
      ValueError: the exchange is unknown.
    """
    if exchange not in EXCHANGES:
        raise ValueError(f'interaction.exchange: {exchange!r}, expected one of {", ".join(EXCHANGES)}')
    if mesh.size == 1:
        return interact(q, q_len, y, y_len)
    local = functools.partial(_WAYS[exchange], interact, mesh.axis_names)
    rows, columns = PartitionSpec(mesh.axis_names), PartitionSpec(None, mesh.axis_names)
    # Replication is not checked: nothing is replicated on the way in or out.
    return jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=columns, check_vma=False)(q, q_len, y, y_len)


def _gather(interact, axes, q, q_len, y, y_len):
    return interact(_everywhere(q, axes), jax.lax.all_gather(q_len, axes, tiled=True), y, y_len)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _everywhere(x, axes):
    """The parts of all devices. Its own derivative would sum the gradients in the dtype of the embeddings."""
    return jax.lax.all_gather(x, axes, tiled=True)


def _everywhere_forward(x, axes):
    return _everywhere(x, axes), None


def _everywhere_backward(axes, _, g):
    return (jax.lax.psum_scatter(widen(g), axes, tiled=True).astype(g.dtype),)


_everywhere.defvjp(_everywhere_forward, _everywhere_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(interact, axes, q, q_len, y, y_len):
    devices = jax.lax.axis_size(axes)

    def score(step, block, scores):
        parts = interact(*block, y, y_len)
        row = _first_row(step, axes, q)
        return jax.tree.map(lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, row, 0), scores, parts)

    def pass_on_and_score(step, carry):
        block, scores = carry
        block = _pass_on(block, axes)
        return block, score(step, block, scores)

    parts = jax.eval_shape(interact, q, q_len, y, y_len)
    zeros = jax.tree.map(lambda part: jnp.zeros((devices * len(q), part.shape[1]), part.dtype), parts)
    first = (q, q_len), score(0, (q, q_len), zeros)
    return jax.lax.fori_loop(1, devices, pass_on_and_score, first)[1]


def _ring_forward(interact, axes, *inputs):
    return _ring(interact, axes, *inputs), inputs


def _ring_backward(interact, axes, inputs, g):
    q, q_len, y, y_len = inputs

    def gradients(step, block):
        row = _first_row(step, axes, q)
        g_block = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, row, len(q), 0), g)
        _, pull_back = jax.vjp(lambda q, y: interact(q, block[1], y, y_len), block[0], y)
        return jax.tree.map(widen, pull_back(g_block))

    def pass_on_and_add(step, carry):
        block, dq, dy = carry
        block, dq = _pass_on((block, dq), axes)
        parts = gradients(step, block)
        return block, *jax.tree.map(jnp.add, (dq, dy), parts)

    at_home, dy_at_home = gradients(0, (q, q_len))
    # The gradient of a block begins on the first device that gets the block, and the last one sends it home.
    block = _pass_on((q, q_len), axes)
    dq, dy = gradients(1, block)
    first = block, dq, jax.tree.map(jnp.add, dy, dy_at_home)
    _, dq, dy = jax.lax.fori_loop(2, jax.lax.axis_size(axes), pass_on_and_add, first)
    dq = at_home + _pass_on(dq, axes)
    return dq.astype(q.dtype), None, jax.tree.map(lambda total, x: total.astype(x.dtype), dy, y), None


_ring.defvjp(_ring_forward, _ring_backward)


def _first_row(step, axes, q):
    """Where the scores of a block begin: at step s, a device holds the queries of the s-th device after it."""
    return (jax.lax.axis_index(axes) + step) % jax.lax.axis_size(axes) * len(q)


def _pass_on(block, axes):
    """Sends a block to the device before this one, and returns the block of the device after it."""
    devices = jax.lax.axis_size(axes)
    return jax.lax.ppermute(block, axes, [(i, (i - 1) % devices) for i in range(devices)])


_WAYS = {'gather': _gather, 'ring': _ring}
EXCHANGES = tuple(_WAYS)
