"""The step compiled from shapes alone: its arguments, its memory, and why it does not fit."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from tests.compile_for.conftest import GIB, LENGTHS, SIZES
from tests.conftest import experiment, small_config
from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.rehearsal import Trial, compile_trial, padded_lengths
from uwe_jax.compile_for.topology import pod_mesh, usable_memory


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
    rows, tokens = 16 // 8, sum(LENGTHS.values())
    assert arguments['batch'] == rows * (4 * tokens + 4 * 4 + 3 * 16)  # ids, lengths, positives
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
    assert padded_lengths(config) == small_dataset.manifest['lengths'] | {'sentence': 40}
    config = experiment(**{'data.length.sentence': 40})
    assert padded_lengths(config) == {'skill': 16, 'job': 16, 'sentence': 40, 'alternative': 16}


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
