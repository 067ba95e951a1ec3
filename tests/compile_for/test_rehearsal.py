"""The step compiled from shapes alone: its arguments, its memory, and why it does not fit."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from tests.compile_for.conftest import GIB, SIZES, TOKENS
from tests.conftest import experiment, small_config
from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.rehearsal import Tokens, Trial, compile_trial, tokens_of
from uwe_jax.compile_for.topology import pod_mesh, usable_memory
from uwe_jax.data.packed_plan import PackedPlan
from uwe_jax.data.plan import Plan


def test_the_arguments_of_a_device_are_its_shares_of_parameters_optimizer_state_and_batch(rehearsal, trial):
    d, inner = SIZES.hidden_size, SIZES.intermediate_size
    table = SIZES.vocab_size + SIZES.max_position_embeddings
    whole = SIZES.relative_attention_num_buckets * SIZES.num_attention_heads + 2 * d  # vectors: on every device
    halves = table * d // 2
    for _ in range(SIZES.num_hidden_layers):
        whole += 4 * d + inner + d + 4 * d  # biases, and two norms
        halves += (4 * d * d + 2 * d * inner) // 2  # fsdp = 2
    arguments = rehearsal.arguments(16)
    assert arguments['parameters'] == 4 * (whole + halves)
    assert arguments['optimizer state'] == 2 * arguments['parameters'] + 2 * 4  # two moments, and two step counters
    slots, row_tokens = 16 // 8, 64  # one row per device
    assert arguments['batch'] == 3 * 4 * row_tokens + slots * (4 * 2 * 4 + 3 * 16 + 4)
    step_and_key = 4 + 8
    assert trial.memory.arguments == sum(arguments.values()) + step_and_key


def test_the_state_is_donated(rehearsal, trial):
    arguments = rehearsal.arguments(16)
    assert trial.memory.aliased >= arguments['parameters'] + arguments['optimizer state']


def test_a_batch_that_the_mesh_cannot_split_is_refused(rehearsal):
    with pytest.raises(ValueError, match=r'data\.batch_size: 12, expected a multiple of the 8 devices'):
        rehearsal.trial(12)


def test_a_program_that_needs_more_than_the_device_has_is_refused_with_its_size():
    lowered = jax.jit(jnp.sin).lower(jax.ShapeDtypeStruct((2**28,), jnp.float32))  # 1 GiB in, 1 GiB out
    assert compile_trial(lowered, 4, usable=2 * GIB).refusal == ''
    assert compile_trial(lowered, 4, usable=2 * GIB - 1).refusal == 'needs 2.00 GiB'


class Refused:
    """A lowered step whose compiler raises an error."""

    def __init__(self, message):
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_program_that_the_compiler_refuses_for_its_size_does_not_fit():
    trial = compile_trial(Refused('RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.\nmore'), 4, usable=GIB)
    assert trial == Trial(4, None, None, 'RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.')


@pytest.mark.parametrize('message', ['INTERNAL: no', 'RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem'])
def test_a_program_that_the_compiler_refuses_for_another_reason_is_an_error(message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        compile_trial(Refused(message), 4, usable=GIB)


def test_lengths_are_those_of_the_config_then_of_the_dataset_then_of_esco(small_dataset_dir, small_dataset, base_model):
    config = small_config(small_dataset_dir, base_model, **{'data.length.sentence': 40})
    assert tokens_of(config).longest == small_dataset.manifest['lengths'] | {'sentence': 40}
    config = experiment(**{'data.length.sentence': 40})
    assert tokens_of(config).longest == {'skill': 16, 'job': 16, 'sentence': 40, 'alternative': 16}


def test_without_a_dataset_texts_are_as_long_as_escos():
    packed = 0.99
    assert tokens_of(experiment()).per_slot == pytest.approx(75.0 / packed)
    assert tokens_of(experiment(**{'data.length.sentence': 40})).per_slot == pytest.approx((75.0 - 56.7 + 40) / packed)


@pytest.mark.parametrize('devices', [1, 2])
def test_rows_are_as_many_as_the_plan_of_the_dataset_has(
    rehearse, small_dataset_dir, small_dataset, base_model, devices
):
    config = small_config(small_dataset_dir, base_model)
    tokens, size = tokens_of(config), config.data.batch_size
    plan = Plan(small_dataset.graphs, batch_size=size, seed=config.seed, distractor_probability=0.8)
    planned = PackedPlan(plan, small_dataset, tokens.longest, devices).rows
    assert rehearse(devices, tokens=tokens).rows(size)[0] == pytest.approx(planned, abs=1)


# With a compiled program: memory and traffic.

DEEP = dataclasses.replace(SIZES, num_hidden_layers=2, intermediate_size=1024)


def test_twice_the_batch_leaves_the_memory_of_an_encoder_in_chunks_as_it_was(rehearse):
    # Scores of pooled texts, so that nearly all temporaries are the encoder's.
    changes = {'score.kind': 'mean', 'run.rows_at_once': 8}
    rehearsal = rehearse(1, sizes=DEEP, tokens=Tokens(TOKENS.longest, per_slot=64), **changes)
    once, twice = (rehearsal.trial(size).memory.temporary for size in (64, 128))
    # Only token embeddings grow, those of 64 more rows; encoded all at once, the temporaries grow by 200 MiB.
    assert twice - once <= 2 * (64 * 64 * SIZES.hidden_size * 4)


@pytest.mark.parametrize('rows_at_once', [0, 1])
def test_gradients_are_reduced_once_in_float32(rehearse, rows_at_once):
    rehearsal = rehearse(tokens=Tokens(TOKENS.longest, per_slot=64), **{'run.rows_at_once': rows_at_once})
    whole = rehearsal.arguments(16)['parameters']  # on each of the eight devices
    reduced = [one for one in compiled.collectives(rehearsal.trial(16).program) if one.kind == 'all-reduce']
    assert all(one.times == 1 for one in reduced)
    assert sum(one.bytes for one in reduced) == pytest.approx(whole, rel=0.005)  # the rest are metrics


# With libtpu or the CUDA plugin: their compilers.


def test_a_step_for_a_tpu_has_a_peak_and_is_refused_with_too_large_a_batch(rehearse):
    pytest.importorskip('libtpu')
    device_mesh = pod_mesh('v5e:2x2', fsdp=2)
    rehearsal = rehearse(device_mesh=device_mesh, usable=usable_memory(device_mesh.devices.flat[0]))
    trial = rehearsal.trial(16)
    assert trial.memory.arguments >= sum(rehearsal.arguments(16).values())
    assert trial.memory.peak > trial.memory.arguments
    assert compiled.sent(trial.program) > 0
    assert 'hbm' in rehearsal.trial(2**18).refusal.lower()


def test_a_step_for_gpus_has_a_peak(rehearse):
    if importlib.util.find_spec('jax_cuda13_plugin') is None:
        pytest.skip('the CUDA plugin is not installed')
    device_mesh = pod_mesh('h100:2', fsdp=2)
    usable = usable_memory(device_mesh.devices.flat[0])
    assert usable == 0.75 * 84_942_979_072
    trial = rehearse(device_mesh=device_mesh, usable=usable).trial(16)
    assert trial.memory.peak > trial.memory.arguments
    assert compiled.sent(trial.program) > 0
