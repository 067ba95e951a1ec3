"""A checkpoint is used only if it is whole, and nothing that fails while one is written touches those before it."""

import contextlib
import os
import resource

import jax
import numpy as np
import pytest

from uwe_jax.training.checkpoint import CheckpointError, Checkpoints, load_params

STEPS = (2, 4, 6)


def state_after(step):
    """Another state for every step, which does not become small by compression."""
    return {'params': np.random.default_rng(step).random((100, 100)), 'step': np.int32(step)}


LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_after(0))


@pytest.fixture
def workdir(tmp_path):
    """A workdir with three checkpoints."""
    for step in STEPS:
        with Checkpoints(tmp_path, keep=3) as checkpoints:
            checkpoints.save(step, state_after(step), {'config': {}})
    return tmp_path


def files_of(workdir, step):
    directory = workdir / 'checkpoints' / f'step_{step}'
    return sorted(path for path in directory.rglob('*') if path.is_file() and path.stat().st_size)


def test_the_newest_is_restored(workdir):
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest == 6
        restored = checkpoints.restore(LIKE)
    np.testing.assert_array_equal(restored['params'], state_after(6)['params'])


def test_only_the_newest_are_kept(workdir):
    with Checkpoints(workdir, keep=2) as checkpoints:
        checkpoints.save(8, state_after(8), {})
    assert sorted(path.name for path in (workdir / 'checkpoints').iterdir()) == ['step_6', 'step_8']


def test_a_step_that_is_saved_is_not_saved_again(workdir):
    before = [path.stat().st_mtime_ns for path in files_of(workdir, 6)]
    with Checkpoints(workdir, keep=3) as checkpoints:
        checkpoints.save(6, state_after(6), {})
    assert [path.stat().st_mtime_ns for path in files_of(workdir, 6)] == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ('damage', 'said'),
    [(cut, 'was cut short or altered'), (flip, 'was cut short or altered'), (os.unlink, 'is missing')],
)
def test_a_damaged_checkpoint_is_passed_over_by_name_and_moved_aside(workdir, damage, said, caplog):
    largest = max(files_of(workdir, 6), key=lambda path: path.stat().st_size)
    damage(largest)
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest == 4
        np.testing.assert_array_equal(checkpoints.restore(LIKE)['params'], state_after(4)['params'])
        assert 'step_6 is passed over: ' in caplog.text
        assert f'{largest.name} {said}' in caplog.text
        checkpoints.save(6, state_after(6), {})  # the run comes by there again
    assert load_params(workdir)[1] == 6
    assert (workdir / 'checkpoints' / 'damaged_step_6').is_dir()


def test_a_flipped_bit_in_any_file_leaves_a_right_state_or_the_one_before(workdir):
    for path in files_of(workdir, 6):
        whole = path.read_bytes()
        flip(path)
        params, step = load_params(workdir)
        assert step in (4, 6)
        np.testing.assert_array_equal(params, state_after(step)['params'])
        path.write_bytes(whole)
    assert load_params(workdir)[1] == 6


def test_where_none_is_whole_nothing_begins_anew_unasked(workdir):
    for step in STEPS:
        (workdir / 'checkpoints' / f'step_{step}' / 'checksums.json').unlink()
    with pytest.raises(CheckpointError, match='no checkpoint is whole, of steps 2, 4, 6'):
        Checkpoints(workdir, keep=3)


def test_one_that_was_being_written_is_as_if_it_had_not_been_begun(tmp_path):
    (tmp_path / 'checkpoints' / 'step_2.orbax-checkpoint-tmp' / 'state').mkdir(parents=True)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(2, state_after(2), {})
    assert load_params(tmp_path)[1] == 2
    assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['step_2']


@contextlib.contextmanager
def small_files():
    """While the block runs, a file takes at most 300 bytes, as under a quota."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


def test_a_disk_that_fills_is_one_line_and_leaves_the_last_checkpoint(workdir):
    one_line = r'a checkpoint could not be written: .*File too large.*The newest whole one is the one after step 6$'
    with pytest.raises(OSError, match=one_line), small_files(), Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(8, state_after(8), {})
    assert load_params(workdir)[1] == 6
    with Checkpoints(workdir, keep=1) as checkpoints:  # once there is room again
        checkpoints.save(8, state_after(8), {})
    assert load_params(workdir)[1] == 8
