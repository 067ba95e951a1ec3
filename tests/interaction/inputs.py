"""What the tests of late interaction share: ragged texts, values with gradients, and a whole batch with its loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from uwe_jax.distributed import mesh
from uwe_jax.interaction import Score, exchanged, late_interaction, reference
from uwe_jax.interaction.score import participating
from uwe_jax.loss import InfoNCE, many_to_many_info_nce

NORM = 3.4  # of the base model's token embeddings on ESCO names
TOLERANCE = {jnp.float32: 2e-5, jnp.bfloat16: 2e-2}  # max |a - b| / max |b|, against float64 on the same inputs
ATTENDING = [Score(attend=attend) for attend in ('target', 'query', 'both', 'from_skill')]
TOKEN_SCORES = [  # those that the forms compute
    Score(),
    Score(attend='query', reduce='sum', special_tokens=False, temperature=0.02),
    Score(attend='both'),
    Score(attend='from_skill'),
    Score(kind='maxsim'),
    Score(kind='maxsim', attend='both', reduce='sum'),
]
MEAN_SCORES = [
    Score(target='mean'),
    Score(kind='maxsim', target='mean', special_tokens=False),
    Score(kind='mean'),
]


def name_of(score):
    default = Score()
    changed = {k: v for k, v in dataclasses.asdict(score).items() if v != getattr(default, k)}
    return ','.join(f'{k}={v}' for k, v in changed.items()) or 'default'


def texts(rng, count, tokens, d=48):
    """Embeddings of norm NORM, and ragged lengths; the last text is empty."""
    x = rng.normal(size=(count, tokens, d))
    x *= NORM / np.linalg.norm(x, axis=-1, keepdims=True)
    length = rng.integers(2, tokens + 1, count).astype(np.int32)
    length[-1] = 0
    return jnp.asarray(x, jnp.float32), jnp.asarray(length)


@functools.partial(jax.jit, static_argnames=('score', 'form', 'block_entries', 'mesh', 'exchange'))
def score_and_gradients(q, q_len, y, y_len, weights, score, *, mesh=None, exchange='gather', **how):
    """Both scores, and the gradients of their weighted sum; on a mesh if one is given."""
    interact = functools.partial(late_interaction, score=score, **how)
    if mesh:
        interact = functools.partial(exchanged, interact, exchange=exchange, mesh=mesh)

    def weighted(q, y):
        s_qy, s_yq = interact(q, q_len, y, y_len)
        return jnp.sum(s_qy * weights[0]) + jnp.sum(s_yq * weights[1]), (s_qy, s_yq)

    (dq, dy), (s_qy, s_yq) = jax.grad(weighted, (0, 1), has_aux=True)(q, y)
    return {'s_qy': s_qy, 's_yq': s_yq, 'dq': dq, 'dy': dy}


def in_float64(q, q_len, y, y_len, weights, score):
    """The same from the reference in float64, on the very numbers of the inputs, rounded to their dtype."""
    with jax.enable_x64(True):
        q, y = (jnp.asarray(x, jnp.float64) for x in (q, y))
        exact = score_and_gradients(q, q_len, y, y_len, weights, score, form='reference')
        return {name: np.asarray(value) for name, value in exact.items()}


def kernel_inputs(rng, queries, q_tokens, targets, y_tokens, dtype, score, d=16):
    """Embeddings and masks of ragged texts, the last of each side empty, and cotangents of both sums."""
    (q, q_len), (y, y_len) = texts(rng, queries, q_tokens, d), texts(rng, targets, y_tokens, d)
    q_mask = participating(q_len, q_tokens, score.special_tokens)
    y_mask = participating(y_len, y_tokens, score.special_tokens)
    g = rng.normal(size=(2, queries, targets)).astype(np.float32)
    return jnp.asarray(q, dtype), q_mask, jnp.asarray(y, dtype), y_mask, jnp.asarray(g)


@functools.partial(jax.jit, static_argnames='score')
def _sums_and_gradients(q, q_mask, y, y_mask, g, score):
    sums, pass_back = jax.vjp(lambda q, y: reference.scores(q, q_mask, y, y_mask, score), q, y)
    return *sums, *pass_back(tuple(g))


def sums_and_gradients_in_float64(q, q_mask, y, y_mask, g, score):
    """What a kernel should compute: from the reference in float64, on the same rounded inputs."""
    with jax.enable_x64(True):
        q, y, g = (jnp.asarray(x, jnp.float64) for x in (q, y, g))
        return [np.asarray(x) for x in _sums_and_gradients(q, q_mask, y, y_mask, g, score)]


def error(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.max(np.abs(actual - expected)) / max(np.max(np.abs(expected)), 1e-30)


def errors(actual, expected):
    return {name: error(actual[name], expected[name]) for name in expected}


def batch(seed=0, rows=32, q_tokens=8, y_tokens=10):
    """Texts and edges of one graph, with all that makes a batch irregular.

    Returns:
      q, q_len, y, y_len, edges; edges are asymmetric with several positives per row, and there are rows without a
      positive, empty slots on both sides, and texts that occur twice.
    """
    rng = np.random.default_rng(seed)
    q, q_len, y, y_len = map(np.array, (*texts(rng, rows, q_tokens), *texts(rng, rows, y_tokens)))
    q[1], q_len[1] = q[0], q_len[0]
    y[5], y_len[5] = y[9], y_len[9]
    q_len[[7, 20]] = 0
    y_len[[2, 3, 30]] = 0
    edges = rng.random((rows, rows)) < 0.1
    edges[np.arange(rows), np.arange(rows)] = True
    edges[[4, 17]] = False
    edges[:, 12] = False
    return q, q_len, y, y_len, edges


def loss_and_gradients(q, q_len, y, y_len, edges, device_mesh=None, exchange='gather', **how):
    """L(Y|Q) + L(Q|Y) of a batch and its gradients by the embeddings, on a mesh if one is given."""
    interact = functools.partial(late_interaction, score=Score(), **how)
    if device_mesh:
        interact = functools.partial(exchanged, interact, exchange=exchange, mesh=device_mesh)

    def loss(q, y, q_len, y_len, edges):
        scores = interact(q, q_len, y, y_len)
        directions = many_to_many_info_nce(*scores, edges, q_len > 0, y_len > 0, 0.05, InfoNCE())
        return sum(direction.loss for direction in directions.values())

    arrays = q, y, q_len, y_len, edges
    everywhere = None
    if device_mesh is not None:
        arrays = mesh.put(arrays, (mesh.rows(device_mesh),) * len(arrays))
        everywhere = mesh.replicated(device_mesh)
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=everywhere)
    value, (dq, dy) = compiled(*arrays)
    return {'loss': np.asarray(value), 'dq': np.asarray(dq), 'dy': np.asarray(dy)}
