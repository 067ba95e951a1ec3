"""The training step compiled from shapes alone: what it holds, computes and sends, and the largest batch that fits."""

import dataclasses
import gc
import importlib.util
import json
import math
import subprocess
import sys
import weakref

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import topologies

from tests.conftest import ROOT, experiment, small_config
from uwe_jax.compile_for import __main__ as compile_for
from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.__main__ import ESCO_LENGTHS, first_guess, markdown, padded_lengths, report
from uwe_jax.compile_for.compiled import Memory
from uwe_jax.compile_for.flops import encoder_flops, interaction_flops, step_flops
from uwe_jax.compile_for.rehearsal import Rehearsal, Trial, largest
from uwe_jax.compile_for.topology import pod_mesh, usable_memory
from uwe_jax.distributed.mesh import make_mesh
from uwe_jax.interaction import Score
from uwe_jax.models.mpnet import MPNetConfig

SIZES = MPNetConfig(
    vocab_size=64,
    hidden_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=256,
    max_position_embeddings=66,
    relative_attention_num_buckets=32,
    layer_norm_eps=1e-5,
)
LENGTHS = {'skill': 4, 'job': 4, 'sentence': 8, 'alternative': 4}
GIB = 2**30


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """The directory of a small encoder: its sizes, and no weights."""
    directory = tmp_path_factory.mktemp('base')
    (directory / 'config.json').write_text(json.dumps({'model_type': 'mpnet'} | dataclasses.asdict(SIZES)))
    return directory


@pytest.fixture(scope='module')
def rehearse(base):
    """Makes a rehearsal on some of the eight simulated devices."""

    def make(devices=8, usable=GIB, device_mesh=None, **changes):
        config = experiment(**({'model.dropout': 0.0} | changes))
        device_mesh = device_mesh or make_mesh(config.mesh.data, config.mesh.fsdp, jax.devices()[:devices])
        return Rehearsal(config, base, LENGTHS, device_mesh, usable)

    return make


@pytest.fixture(scope='module')
def split(rehearse):
    """On 4 x 2 devices, with a batch of 16."""
    rehearsal = rehearse(**{'mesh.fsdp': 2})
    return rehearsal, rehearsal.trial(16)


# The search.


@settings(deadline=None)
@given(limit=st.integers(0, 10**6), start=st.integers(1, 10**6))
def test_the_search_ends_within_an_eighth_of_the_largest_that_fits_and_tries_nothing_twice(limit, start):
    asked = []

    def fits(number):
        asked.append(number)
        return number <= limit

    fitting, refused = largest(fits, start)
    assert fitting <= limit < refused
    assert refused - fitting <= max(1, fitting // 8)
    assert {number for number in asked if number <= limit} | {0} >= {fitting}
    assert refused in asked
    assert len(asked) == len(set(asked)) <= 10 + abs(math.log2((limit + 1) / start))


@given(limit=st.integers(0, 15), start=st.integers(1, 100))
def test_of_small_numbers_the_search_finds_the_largest(limit, start):
    assert largest(lambda number: number <= limit, start) == (limit, limit + 1)


def test_the_search_walks_to_the_edge_in_steps_that_double_and_then_halves():
    def asked(limit, start):
        numbers = []
        largest(lambda number: numbers.append(number) or number <= limit, start)
        return numbers

    assert asked(limit=90, start=80) == [80, 90, 110, 100]
    assert asked(limit=200, start=80) == [80, 90, 110, 150, 230, 190, 210]
    assert asked(limit=65, start=80) == [80, 70, 50, 60, 65]
    assert asked(limit=2, start=80) == [80, 70, 50, 25, 12, 6, 3, 1, 2]


@given(start=st.integers(1, 10**6))
def test_a_guess_that_is_right_takes_two_trials(start):
    asked = []
    largest(lambda number: asked.append(number) or number < start + max(1, start // 8), start)
    assert len(asked) == 2


def test_the_guess_is_where_memory_would_be_full_if_all_grew_with_the_batch_but_state_and_gradients(rehearse):
    made = rehearse(usable=GIB)
    arguments = made.arguments(16)
    fixed = 2 * arguments['parameters'] + arguments['optimizer state']
    tenth = (GIB - fixed) // 10
    assert first_guess(made, Trial(16, None, Memory(0, 0, 0, 0, fixed + tenth), '')) in (19, 20)  # 2 rows a device
    assert first_guess(made, Trial(16, None, Memory(0, 0, 0, 0, fixed + 20 * tenth), 'needs 2.00 GiB')) == 1
    assert first_guess(made, Trial(64, None, None, 'Used 20G of 15.75G hbm')) == 4


# What goes into the step, and what the step holds.


def test_a_program_that_is_asked_nothing_more_is_kept_nowhere(rehearse):
    trial = rehearse().trial(16)
    executable = weakref.ref(trial.program._executable)
    trial = compile_for.without_program(trial)
    gc.collect()
    assert executable() is None
    assert trial.memory


def test_the_arguments_of_a_device_are_its_parts_of_parameters_optimizer_state_and_batch(split):
    rehearsal, trial = split
    d, inner = SIZES.hidden_size, SIZES.intermediate_size
    table = SIZES.vocab_size + SIZES.max_position_embeddings
    whole = SIZES.relative_attention_num_buckets * SIZES.num_attention_heads + 2 * d  # on every device: vectors
    halves = table * d // 2
    for _ in range(SIZES.num_hidden_layers):
        whole += 4 * d + inner + d + 4 * d  # biases, and two norms
        halves += (4 * d * d + 2 * d * inner) // 2  # fsdp = 2
    found = rehearsal.arguments(16)
    assert found['parameters'] == 4 * (whole + halves)
    assert found['optimizer state'] == 2 * found['parameters'] + 2 * 4  # two moments, and two counts of steps
    rows, tokens = 16 // 8, sum(LENGTHS.values())
    assert found['batch'] == rows * (4 * tokens + 4 * 4 + 3 * 16)  # ids, lengths, edges
    step_and_key = 4 + 8
    assert trial.memory.arguments == sum(found.values()) + step_and_key


def test_the_state_is_donated_and_nothing_is_allocated(split):
    rehearsal, trial = split
    found = rehearsal.arguments(16)
    assert trial.memory.aliased >= found['parameters'] + found['optimizer state']
    assert trial.refusal == ''


def test_what_needs_more_than_the_device_has_is_refused_with_what_it_needs(rehearse, monkeypatch):
    monkeypatch.setattr(compiled, 'memory', lambda _: Memory(0, 0, 0, 0, 3 * GIB))
    made = rehearse(devices=1, usable=2 * GIB)
    made._step = compiles()
    assert made.trial(4).refusal == 'needs 3.00 GiB'


def compiles(error=None):
    """A step whose compiler does nothing, or raises."""

    class Step:
        def lower(self, *_):
            return self

        def compile(self):
            if error:
                raise error
            return object()

    return Step()


def test_what_the_compiler_refuses_for_its_size_does_not_fit_and_says_why(rehearse):
    made = rehearse(devices=1)
    made._step = compiles(jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.\nmore'))
    assert made.trial(4) == Trial(4, None, None, 'RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.')


@pytest.mark.parametrize('message', ['INTERNAL: no', 'RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem'])
def test_what_the_compiler_refuses_for_another_reason_is_an_error(rehearse, message):
    made = rehearse(devices=1)
    made._step = compiles(jax.errors.JaxRuntimeError(message))
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        made.trial(4)


def test_a_batch_that_the_mesh_cannot_split_is_refused(split):
    with pytest.raises(ValueError, match=r'data\.batch_size: 12, expected a multiple of the 8 devices'):
        split[0].trial(12)


# Floating-point operations.


@pytest.mark.parametrize(
    ('form', 'changes'),
    [
        ('reference', {}),
        ('blockwise', {}),
        ('blockwise', {'model.remat': True}),
        ('blockwise', {'score.kind': 'mean'}),
        ('blockwise', {'score.target': 'mean'}),
    ],
    ids=str,
)
def test_the_formula_agrees_with_what_the_compiler_counts_where_no_loop_runs_twice(base_model, form, changes):
    small = {'model.layers': 1, 'model.dropout': 0.0, 'interaction.form': form, 'interaction.block_entries': 2**30}
    config = experiment(**(small | changes))
    made = Rehearsal(config, base_model, ESCO_LENGTHS, make_mesh(devices=jax.devices()[:1]), GIB)
    counted = made._step.lower(made._state, made._batch(64)).cost_analysis()['flops']
    assert sum(made.flops(64).values()) == pytest.approx(counted, rel=0.02)


def test_operations_of_the_encoder_by_hand():
    of_a_token = 2 * (4 * 128 * 128 + 2 * 128 * 256)
    of_two_tokens = 2 * 2 * 128  # a logit, and a value that is mixed in
    assert encoder_flops(SIZES, 1, 1) == 3 * (of_a_token + of_two_tokens)
    assert encoder_flops(SIZES, 5, 3) == 3 * 5 * (3 * of_a_token + 3 * 3 * of_two_tokens)
    assert encoder_flops(dataclasses.replace(SIZES, num_hidden_layers=12), 5, 3) == 12 * encoder_flops(SIZES, 5, 3)
    assert 3 * encoder_flops(SIZES, 5, 3, remat=True) == 4 * encoder_flops(SIZES, 5, 3)


@pytest.mark.parametrize(
    ('score', 'form', 'products'),
    [
        (Score(), 'blockwise', 4 * (7 * 3) * (5 * 2)),
        (Score(), 'kernel', 4 * (7 * 3) * (5 * 2)),
        (Score(kind='maxsim'), 'reference', 3 * (7 * 3) * (5 * 2)),
        (Score(target='mean'), 'blockwise', 3 * 7 * 5 * (3 + 2)),
        (Score(kind='mean'), 'blockwise', 3 * 7 * 5),
    ],
)
def test_operations_of_the_interaction_by_hand(score, form, products):
    assert interaction_flops(score, form, 128, queries=7, q_tokens=3, targets=5, y_tokens=2) == 2 * 128 * products


def test_devices_share_the_operations_of_a_step(rehearse):
    whole = step_flops(SIZES, Score(), 'blockwise', 16, LENGTHS)
    assert rehearse(devices=8).flops(16) == {part: flops / 8 for part, flops in whole.items()}


# The report.


def test_the_report_says_what_a_step_holds_computes_and_sends(split):
    rehearsal, trial = split
    lines = list(report(rehearsal, trial))
    numbers = {line[:22].strip(): line[22:].split() for line in lines if line.startswith('  ')}
    assert lines[0] == 'batch 16, 2 rows a chip'
    assert float(numbers['parameters'][0]) == pytest.approx(rehearsal.arguments(16)['parameters'] / 2**20, abs=0.05)
    assert float(numbers['peak, all together'][0]) == pytest.approx(trial.memory.needed / 2**20, abs=0.05)
    assert float(numbers['all'][0]) == pytest.approx(compiled.sent(trial.program) / 2**20, abs=0.05)
    assert '  fits' in lines
    assert {one.kind for one in compiled.collectives(trial.program)} <= numbers.keys()


def test_the_report_of_what_does_not_fit_says_why_and_what_is_known_all_the_same(rehearse):
    lines = list(report(rehearse(), Trial(16, None, None, 'RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.')))
    assert '  does not fit: RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm.' in lines
    assert any(line.startswith('  by formula') for line in lines)
    assert not any('collectives' in line for line in lines)


def test_several_topologies_make_a_table():
    rows = [{'topology': 'v5e:2x4', 'chips': '8'}, {'topology': 'v5e:8x8', 'chips': '64'}]
    assert list(markdown(rows)) == ['| topology | chips |', '|---|---|', '| v5e:2x4 | 8 |', '| v5e:8x8 | 64 |']


@pytest.fixture
def on_cpus(monkeypatch):
    """Eight simulated devices in place of a pod's, and a compiler to which 10 rows a device are too much."""

    def trial(self, batch_size):
        rows = batch_size // self.devices
        memory = Memory(0, 0, 0, 0, rows * GIB)
        return Trial(batch_size, None, memory, '' if rows <= 10 else f'needs {rows:.2f} GiB')

    monkeypatch.setattr(compile_for, 'pod_mesh', lambda _, **axes: make_mesh(**axes))
    monkeypatch.setattr(compile_for, 'usable_memory', lambda _: 10 * GIB)
    monkeypatch.setattr(Rehearsal, 'trial', trial)


def test_a_topology_is_one_row_of_the_table(on_cpus, base, capsys):
    config = experiment(**{'init': str(base), 'data.batch_size': 16})
    row = compile_for.compile_for('v5e:2x4', config, LENGTHS, search=True)
    wanted = {'topology': 'v5e:2x4', 'chips': '8', 'memory': '10.00', 'peak, batch 16': '2.00', 'largest batch': '80'}
    assert row == row | wanted | {'rows a chip': '10', 'its peak': '10.00'}
    assert 'largest batch: 80, 10 rows a chip; 88, 11 rows, do not fit' in capsys.readouterr().out
    searched = {'largest batch', 'rows a chip', 'its peak'}
    assert compile_for.compile_for('v5e:2x4', config, LENGTHS, search=False).keys() == row.keys() - searched


# Lengths.


def test_lengths_are_those_of_the_dataset_or_of_the_config_or_of_esco(small_dataset_dir, small_dataset, base_model):
    config = small_config(small_dataset_dir, base_model, **{'data.length.sentence': 40})
    assert padded_lengths(config) == small_dataset.manifest['lengths'] | {'sentence': 40}
    config = experiment(**{'data.length.sentence': 40})
    assert padded_lengths(config) == {'skill': 16, 'job': 16, 'sentence': 40, 'alternative': 16}


# The command.


def run(*flags):
    command = [sys.executable, '-m', 'uwe_jax.compile_for', *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_what_is_wrong_with_the_input_is_one_line():
    found = run('--config=configs/uwe.py', '--topology=h100:many')
    assert found.returncode == 1
    assert found.stderr == (
        "error: topology 'h100:many', expected h100:GPUS or h100:HOSTSxGPUS, for example h100:8 or h100:2x8\n"
    )


def test_an_unknown_field_and_a_value_out_of_range_are_one_line_too():
    found = run('--config=configs/uwe.py', '--topology=v5e:2x4', '--config.model.width=3')
    assert found.stderr == (
        "error: --config.model.width=3: no field 'width' there; the config file shows those that exist\n"
    )
    found = run('--config=configs/uwe.py', '--topology=v5e:2x4', '--config.data.length.sentence=65')
    assert found.stderr == 'error: data.length.sentence: 65, expected 0, or 3 to 64\n'


# With libtpu or the CUDA plugin, the true compilers.


@pytest.mark.parametrize(('topology', 'gib'), [('v5e:2x4', 15.75), ('v6e:2x4', 31.25), ('v5p:2x2x1', 95.74)])
def test_the_compiler_for_a_tpu_says_how_much_memory_there_is(topology, gib):
    pytest.importorskip('libtpu')
    assert usable_memory(pod_mesh(topology).devices.flat[0]) == pytest.approx(gib * GIB, rel=0.001)


def test_slices_of_a_tpu_come_one_after_another_along_data():
    pytest.importorskip('libtpu')
    pod_mesh('v5e:4x4')  # tells libtpu of the machine
    devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:4x4', num_slices=2).devices
    found = make_mesh(fsdp=4, devices=devices).devices
    assert found.shape == (8, 4)
    assert [{device.slice_index for device in row} for row in found] == 4 * [{0}] + 4 * [{1}]
    with pytest.raises(ValueError, match=r'mesh\.data: 1, expected a multiple of the 2 slices'):
        make_mesh(data=1, fsdp=32, devices=devices)


def test_a_step_for_a_tpu_has_a_peak_and_one_with_too_large_a_batch_is_refused(rehearse):
    pytest.importorskip('libtpu')
    device_mesh = pod_mesh('v5e:2x2', fsdp=2)
    made = rehearse(device_mesh=device_mesh, usable=usable_memory(device_mesh.devices.flat[0]))
    trial = made.trial(16)
    assert trial.memory.arguments >= sum(made.arguments(16).values())
    assert trial.memory.peak > trial.memory.arguments
    assert compiled.sent(trial.program) > 0
    assert 'hbm' in made.trial(2**18).refusal.lower()


def test_a_step_for_gpus_has_a_peak_and_is_compared_with_what_jax_takes_of_the_memory(rehearse):
    if importlib.util.find_spec('jax_cuda13_plugin') is None:
        pytest.skip('the CUDA plugin is not installed')
    device_mesh = pod_mesh('h100:2', fsdp=2)
    made = rehearse(device_mesh=device_mesh, usable=usable_memory(device_mesh.devices.flat[0]))
    assert made.usable == 0.75 * 84_942_979_072
    trial = made.trial(16)
    assert trial.memory.peak > trial.memory.arguments
    assert compiled.sent(trial.program) > 0
