"""Where the time of profiled steps goes: the table, its arithmetic, and a run that writes a profile."""

import doctest
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tests.conftest import ROOT, small_config
from uwe_jax import profile
from uwe_jax.io import paths
from uwe_jax.profile import COMPUTES, SENDS, Options, Span, parts_of, print_table, read, spent
from uwe_jax.train import train
from uwe_jax.training.profiling import STEP, StepProfiler

GRAPH = 'stats { metadata_id: 1 str_value: "command_buffer_7" }'


def named_in_profile(kind, number, name):
    return f'{kind}_metadata {{ key: {number} value {{ id: {number} name: "{name}" }} }}'


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, small_dataset_dir, narrow_model):
    """A run of three steps on eight devices, of which it profiled the second and the third."""
    workdir = tmp_path_factory.mktemp('profile') / 'run'
    profiled = {'steps': 3, 'run.profile_first': 2, 'run.profile_steps': 2, 'run.evaluate_queries': 1}
    train(small_config(small_dataset_dir, narrow_model, **profiled), workdir)
    return workdir


def test_the_profile_holds_the_chosen_steps_on_every_device(workdir):
    steps, devices = read(workdir)
    assert steps == 2
    assert len(devices) == 8


def test_every_part_of_the_step_takes_time(workdir, capsys):
    print_table(Options(workdir))
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith('2 steps on 8 devices, ')
    milliseconds = {row[:20].strip(): float(row[20:32].replace(',', '')) for row in rows}
    assert set(milliseconds) == set(profile.PARTS)
    for part in ('encoder forward', 'encoder backward', 'interaction', 'optimizer', 'collectives'):
        assert milliseconds[part] > 0, part
    assert sum(float(row[32:].strip(' %')) for row in rows) == pytest.approx(100, abs=0.5)


def test_nearly_all_operations_of_the_step_belong_to_a_scope(workdir):
    parts = [spent(spans) for spans in read(workdir).devices.values()]
    computed = sum(time for part in parts for name, time in part.items() if name in profile.PARTS[:6])
    assert sum(part['other operations'] for part in parts) < 0.1 * computed


def test_a_profile_in_a_bucket_replaces_an_older_one_and_is_read_as_on_a_disk(bucket):
    workdir = paths.parse(f'gs://{bucket}/run')
    step = jax.jit(lambda x: jnp.sin(x @ x))
    (workdir / 'profile' / 'plugins' / 'profile' / 'older' / 'host.xplane.pb').write_text('')
    for _ in range(2):
        with StepProfiler(workdir, 1, 1) as profiler:
            profiler.call(1, step, jnp.ones((400, 400)))
        assert read(workdir).steps == 1


def test_kernels_of_a_cuda_graph_belong_to_their_instructions_and_those_of_libraries_to_the_one_before(tmp_path):
    folder = tmp_path / 'profile'
    (folder / 'plugins' / 'profile' / 'now').mkdir(parents=True)
    (folder / 'step.hlo.txt').write_text("""HloModule jit_step, is_scheduled=true
  %loop_add_fusion.3 = f32[8]{0} fusion(%a), metadata={op_name="jit(step)/jvp(encoder)/add"}
  %wrapped-mul = f32[8]{0} fusion(%b), metadata={op_name="jit(step)/jvp(loss)/mul"}
""")
    kernels = 'loop_add_fusion_3', 'nvjet_sm90_tss_128x160', 'wrapped_mul'
    events = ' '.join(f'events {{ metadata_id: {i} offset_ps: {i}000 duration_ps: 1000 {GRAPH} }}' for i in (1, 2, 3))
    names = ' '.join(named_in_profile('event', i, name) for i, name in enumerate([*kernels, STEP], 1))
    names += named_in_profile('stat', 1, 'hlo_op')
    xspace = f"""
planes {{ name: "/device:GPU:0" lines {{ {events} }} {names} }}
planes {{ name: "/host:CPU" lines {{ events {{ metadata_id: 4 duration_ps: 5000 }} }} {names} }}
"""
    file = folder / 'plugins' / 'profile' / 'now' / 'host.xplane.pb'
    file.write_bytes(jax.profiler.ProfileData.text_proto_to_serialized_xspace(xspace))
    [spans] = read(tmp_path).devices.values()
    assert spent(spans) == {'encoder forward': 2, 'loss': 1}


def test_a_run_without_a_profile_is_refused_in_one_line(tmp_path):
    command = [sys.executable, '-m', 'uwe_jax.profile', f'--workdir={tmp_path}']
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        f'error: {tmp_path}/profile: no profile, expected a run with --config.run.profile_first=STEP\n'
    )


def test_operations_at_the_same_time_share_it():
    both = Span(0, 10, COMPUTES, 'loss'), Span(0, 4, COMPUTES, 'optimizer')
    assert spent(both) == {'loss': 8, 'optimizer': 2}


def test_only_what_no_computation_hides_of_a_collective_takes_time():
    assert spent([Span(0, 10, COMPUTES, 'loss'), Span(8, 13, SENDS, 'collectives')]) == {'loss': 10, 'collectives': 3}


def test_waiting_for_data_counts_only_while_the_device_is_idle_between_operations():
    waits = [Span(start, end, profile.WAITS, 'waiting for data') for start, end in ((-9, 3), (8, 15), (30, 99))]
    operations = [Span(0, 10, COMPUTES, 'loss'), Span(20, 31, COMPUTES, 'loss')]
    assert spent([*waits, *operations]) == {'loss': 21, 'waiting for data': 5, 'idle': 5}


def test_the_scope_of_an_operation_says_its_part():
    hlo = """
  %dot.1 = f32[8,16]{1,0} dot(%a, %b), metadata={op_name="jit(step)/jvp(encoder)/layer/dot_general"}
  %copy.2 = f32[8,16]{0,1} copy(%dot.1)
  %fusion.3 = f32[8]{0} fusion(%c), metadata={op_name="jit(step)/transpose(jvp(encoder))/checkpoint/mul"}
  %turned.4 = f32[8]{0} fusion(%c), metadata={op_name="jit(step)/jvp(encoder)/transpose"}
  %while.5 = (s32[], f32[4]{0}) while(%d), body=%body, metadata={op_name="jit(step)/transpose(jvp(interaction))/while"}
  ROOT %add.6 = f32[] add(%e, %f), metadata={op_name="jit(step)/add"}
  %all-reduce-start = f32[8]{0} all-reduce-start(%g), metadata={op_name="jit(step)/transpose(jvp(encoder))/add"}
"""
    assert parts_of(hlo) == {
        'dot.1': (COMPUTES, 'encoder forward'),
        'copy.2': (COMPUTES, 'encoder forward'),
        'fusion.3': (COMPUTES, 'encoder backward'),
        'turned.4': (COMPUTES, 'encoder forward'),
        'while.5': (profile.CALLS, 'interaction'),
        'add.6': (COMPUTES, 'other operations'),
        'all-reduce-start': (SENDS, 'collectives'),
    }


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(profile).failed == 0
