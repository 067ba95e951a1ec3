"""Late interaction over the mesh: neither the devices nor the exchange of queries change values or gradients."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import run_two_processes
from tests.interaction.inputs import (
    batch,
    error,
    errors,
    loss_and_gradients,
    score_and_gradients,
    texts,
)
from uwe_jax.compile_for.compiled import memory, sent
from uwe_jax.distributed import mesh
from uwe_jax.interaction import EXCHANGES, Score, exchanged, late_interaction

SLOW = pytest.mark.slow


@pytest.fixture(scope='module')
def on_one_device():
    return loss_and_gradients(*batch())


def agrees(actual, expected):
    """The bounds that hold between any two ways of computing the same in float32."""
    assert actual['loss'] == pytest.approx(expected['loss'], rel=1e-6)
    assert error(actual['dq'], expected['dq']) <= 1e-5
    assert error(actual['dy'], expected['dy']) <= 1e-5


@pytest.mark.parametrize(
    ('data', 'fsdp', 'exchange'),
    [
        (1, 2, 'ring'),
        pytest.param(2, 2, 'gather', marks=SLOW),
        (2, 2, 'ring'),
        (4, 2, 'gather'),
        (4, 2, 'ring'),
        pytest.param(8, 1, 'ring', marks=SLOW),
    ],
)
def test_loss_and_gradients_are_those_of_one_device(data, fsdp, exchange, on_one_device):
    device_mesh = mesh.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    agrees(loss_and_gradients(*batch(), device_mesh, exchange=exchange), on_one_device)


def test_the_reference_is_exchanged_like_any_form(on_one_device):
    agrees(loss_and_gradients(*batch(), mesh.make_mesh(fsdp=2), form='reference'), on_one_device)


@SLOW
@pytest.mark.parametrize('exchange', EXCHANGES)
def test_two_processes_of_four_devices_give_those_of_one_device(exchange, two_processes, on_one_device):
    agrees(two_processes[exchange], on_one_device)


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    """What two processes compute together, by exchange."""
    output = tmp_path_factory.mktemp('processes') / 'results.npz'
    run_two_processes([sys.executable, '-m', 'tests.interaction.one_of_two_processes', str(output)])
    results = np.load(output)
    return {exchange: {name: results[f'{exchange}/{name}'] for name in ('loss', 'dq', 'dy')} for exchange in EXCHANGES}


@pytest.mark.parametrize(
    ('score', 'exchange'),
    [
        (Score(kind='maxsim'), 'ring'),
        (Score(attend='query', special_tokens=False), 'gather'),
        (Score(attend='both'), 'ring'),
        (Score(attend='from_skill'), 'ring'),
        (Score(kind='mean'), 'gather'),
        (Score(target='mean'), 'ring'),
    ],
    ids=str,
)
def test_other_scores_and_unequal_sides_do_not_depend_on_the_mesh_either(score, exchange):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(2, 16, 24)).astype(np.float32)
    inputs = *texts(rng, 16, 5), *texts(rng, 24, 6), weights, score
    on_the_mesh = score_and_gradients(*inputs, mesh=mesh.make_mesh(), exchange=exchange)
    assert max(errors(on_the_mesh, score_and_gradients(*inputs)).values()) <= 1e-5


@pytest.fixture(scope='module')
def in_half_precision():
    q, q_len, y, y_len, edges = batch()
    return jnp.asarray(q, jnp.bfloat16), q_len, jnp.asarray(y, jnp.bfloat16), y_len, edges


@pytest.fixture(scope='module')
def in_half_precision_on_one_device(in_half_precision):
    return loss_and_gradients(*in_half_precision)


@pytest.mark.parametrize('exchange', ['gather', 'ring'])
def test_gradients_of_half_precision_embeddings_are_added_up_in_full_precision(
    exchange, in_half_precision, in_half_precision_on_one_device
):
    actual = loss_and_gradients(*in_half_precision, mesh.make_mesh(), exchange=exchange)
    # one rounding to bfloat16, on either side
    assert max(errors(actual, in_half_precision_on_one_device).values()) <= 2**-7


def test_appended_padding_and_another_order_change_nothing(on_one_device):
    q, q_len, y, y_len, edges = batch()
    rng = np.random.default_rng(2)
    q_order, y_order = rng.permutation(40), rng.permutation(40)

    def padded(x):  # eight slots more, and three tokens
        return np.pad(x, [(0, 8), (0, 3), (0, 0)], constant_values=1.0)

    actual = loss_and_gradients(
        padded(q)[q_order],
        np.pad(q_len, (0, 8))[q_order],
        padded(y)[y_order],
        np.pad(y_len, (0, 8))[y_order],
        np.pad(edges, (0, 8))[np.ix_(q_order, y_order)],
        mesh.make_mesh(),
        exchange='ring',
    )
    dq, dy = actual['dq'][np.argsort(q_order)], actual['dy'][np.argsort(y_order)]
    assert not dq[32:].any()
    assert not dy[:, 10:].any()
    agrees({'loss': actual['loss'], 'dq': dq[:32, :8], 'dy': dy[:32, :10]}, on_one_device)


@pytest.mark.parametrize('exchange', EXCHANGES)
def test_several_sides_of_targets_meet_the_same_queries(exchange):
    q, q_len, y, y_len, _ = map(jnp.asarray, batch())
    sides, lengths = {'all': y, 'short': y[:16, :5]}, {'all': y_len, 'short': jnp.minimum(y_len[:16], 5)}

    def interact(q, q_len, sides, lengths):
        return {
            name: late_interaction(q, q_len, sides[name], lengths[name], Score(), form='reference') for name in sides
        }

    def scores_and_gradients(interact):
        scores, pass_back = jax.vjp(lambda q, sides: interact(q, q_len, sides, lengths), q, sides)
        return scores, pass_back(jax.tree.map(jnp.cos, scores))

    on_the_mesh = functools.partial(exchanged, interact, exchange=exchange, mesh=mesh.make_mesh(4, 2))
    actual, expected = (jax.jit(scores_and_gradients, static_argnums=0)(way) for way in (on_the_mesh, interact))
    assert max(jax.tree.leaves(jax.tree.map(error, actual, expected))) <= 1e-5


@functools.cache
def compiled(devices, exchange, *, backward, rows=32, tokens=16, d=256):
    """The program for this many texts per device, which are one block: more blocks take longer to compile."""
    device_mesh = mesh.make_mesh(devices=jax.devices()[:devices])
    sharding = mesh.rows(device_mesh)

    def forward(q, y, length):
        interact = functools.partial(late_interaction, score=Score(), block_entries=2**18)
        return exchanged(interact, q, length, y, length, exchange=exchange, mesh=device_mesh)

    def both(q, y, length, *gradients):
        scores, pass_back = jax.vjp(lambda q, y: forward(q, y, length), q, y)
        return scores, pass_back(gradients)

    count = rows * devices
    text = jax.ShapeDtypeStruct((count, tokens, d), jnp.float32, sharding=sharding)
    length = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=sharding)
    gradients = (jax.ShapeDtypeStruct((count, count), jnp.float32, sharding=mesh.columns(device_mesh)),) * 2
    lowered = (
        jax.jit(both).lower(text, text, length, *gradients) if backward else jax.jit(forward).lower(text, text, length)
    )
    return lowered.compile()


@SLOW
@pytest.mark.parametrize('devices', [2, 8])
def test_a_ring_sends_what_gathers_send(devices):
    forward = {exchange: sent(compiled(devices, exchange, backward=False)) for exchange in ('gather', 'ring')}
    both = {exchange: sent(compiled(devices, exchange, backward=True)) for exchange in ('gather', 'ring')}
    assert forward['ring'] <= 1.1 * forward['gather']
    assert both['ring'] <= 1.1 * (both['gather'] + forward['gather'])  # a second gather, in the backward pass
    assert both['ring'] <= 1.6 * both['gather']


@SLOW
def test_what_a_ring_holds_besides_scores_does_not_depend_on_the_number_of_devices():
    def held(devices, exchange):
        program = memory(compiled(devices, exchange, backward=True))
        scores = 4 * 32 * (32 * devices) * 4
        return program.arguments + program.outputs + program.temporary - scores

    assert held(8, 'ring') <= 1.02 * held(4, 'ring')
    assert held(8, 'gather') > 1.2 * held(4, 'gather')


def test_an_unknown_exchange_is_refused_by_name():
    with pytest.raises(ValueError, match=r"interaction\.exchange: 'fast', expected one of gather, ring"):
        loss_and_gradients(*batch(), mesh.make_mesh(), exchange='fast')


def test_an_unknown_form_is_refused_by_name():
    with pytest.raises(ValueError, match=r"interaction\.form: 'fast', expected one of reference, blockwise, kernel"):
        loss_and_gradients(*batch(), form='fast')
