"""A checkpoint is used only if it is whole, and nothing that fails while one is written touches those before it.

All of this holds on a disk and in a bucket.
"""

import contextlib
import resource

import jax
import numpy as np
import pytest

from tests.bucket_server import CUT
from uwe_jax.io import buckets, paths
from uwe_jax.training.checkpoint import CheckpointError, Checkpoints, load_params

STEPS = (2, 4, 6)


def state_after(step):
    """Another state for every step, which does not become small by compression."""
    return {'params': {'w': np.random.default_rng(step).random((100, 100))}, 'step': np.int32(step)}


LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_after(0))


@pytest.fixture(params=['on a disk', pytest.param('in a bucket', marks=pytest.mark.slow)])
def empty(request, tmp_path):
    """A workdir without checkpoints."""
    return tmp_path if request.param == 'on a disk' else request.getfixturevalue('run_in_bucket')


@pytest.fixture
def run_in_bucket(bucket):
    return paths.parse(f'gs://{bucket}/run')


@pytest.fixture
def workdir(empty):
    """A workdir with three checkpoints."""
    return with_checkpoints(empty)


def with_checkpoints(workdir):
    with Checkpoints(workdir, keep=3) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, state_after(step), {'config': {}})
    return workdir


def names(workdir):
    return sorted(path.name for path in (workdir / 'checkpoints').iterdir())


def contents(workdir, step):
    """The files of a checkpoint that are not empty, and what is in them."""
    directory = workdir / 'checkpoints' / f'step_{step}'
    if paths.in_bucket(directory):
        files = [directory / name for name in buckets.listing(directory)]
    else:
        files = [path for path in directory.rglob('*') if path.is_file()]
    read = {path: path.read_bytes() for path in sorted(files)}
    return {path: content for path, content in read.items() if content}


def test_the_newest_is_restored(workdir):
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest == 6
        restored = checkpoints.restore(LIKE)
    np.testing.assert_array_equal(restored['params']['w'], state_after(6)['params']['w'])


@pytest.mark.slow
def test_in_a_bucket_the_newest_is_restored_and_the_older_one_removed(run_in_bucket):
    with Checkpoints(run_in_bucket, keep=1) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state_after(step), {})
    with Checkpoints(run_in_bucket, keep=1) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(LIKE)['params']['w'], state_after(4)['params']['w'])
    assert names(run_in_bucket) == ['step_4']


def test_only_the_newest_are_kept(workdir):
    with Checkpoints(workdir, keep=2) as checkpoints:
        checkpoints.save(8, state_after(8), {})
    assert names(workdir) == ['step_6', 'step_8']


def test_a_step_that_is_saved_is_not_saved_again(workdir):
    before = contents(workdir, 6)
    with Checkpoints(workdir, keep=3) as checkpoints:
        checkpoints.save(6, state_after(6), {'other': 'content'})
    assert contents(workdir, 6) == before


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ('damage', 'said'),
    [(cut, 'was cut short or altered'), (flip, 'was cut short or altered'), (remove, 'is missing')],
)
def test_a_damaged_checkpoint_is_passed_over_by_name_and_moved_aside(workdir, damage, said, caplog):
    files = contents(workdir, 6)
    largest = max(files, key=lambda path: len(files[path]))
    damage(largest)
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert checkpoints.latest == 4
        np.testing.assert_array_equal(checkpoints.restore(LIKE)['params']['w'], state_after(4)['params']['w'])
        assert 'step_6 is passed over: ' in caplog.text
        assert f'{largest.name} {said}' in caplog.text
        checkpoints.save(6, state_after(6), {})  # the run comes by there again
    assert load_params(workdir)[1] == 6
    assert 'damaged_step_6' in names(workdir)


def test_a_flipped_bit_in_any_file_leaves_a_right_state_or_the_one_before(workdir):
    for path, whole in contents(workdir, 6).items():
        flip(path)
        params, step = load_params(workdir)
        assert step in (4, 6)
        np.testing.assert_array_equal(params['w'], state_after(step)['params']['w'])
        path.write_bytes(whole)
    assert load_params(workdir)[1] == 6


def test_where_none_is_whole_nothing_begins_anew_unasked(workdir):
    for step in STEPS:
        (workdir / 'checkpoints' / f'step_{step}' / 'checksums.json').unlink()
    with pytest.raises(CheckpointError, match='no checkpoint is whole, of steps 2, 4, 6'):
        Checkpoints(workdir, keep=3)


def test_one_that_was_being_written_is_as_if_it_had_not_been_begun(empty):
    begun = 'step_2' if paths.in_bucket(empty) else 'step_2.orbax-checkpoint-tmp'
    state = empty / 'checkpoints' / begun / 'state'
    if not paths.in_bucket(empty):
        state.mkdir(parents=True)
    (state / 'manifest.ocdbt').write_text('half')
    with pytest.raises(FileNotFoundError, match='no complete checkpoint'):
        load_params(empty)
    with Checkpoints(empty, keep=3) as checkpoints:
        assert checkpoints.latest is None
        checkpoints.save(2, state_after(2), {})
    assert load_params(empty)[1] == 2
    assert names(empty) == ['step_2']


@contextlib.contextmanager
def small_files():
    """While the block runs, a file takes at most 300 bytes, as under a quota."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


def test_a_disk_that_fills_is_one_line_and_leaves_the_last_checkpoint(tmp_path):
    workdir = with_checkpoints(tmp_path)
    one_line = r'a checkpoint could not be written: .*File too large.*The newest whole one is the one after step 6$'
    with pytest.raises(OSError, match=one_line), small_files(), Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(8, state_after(8), {})
    assert load_params(workdir)[1] == 6
    with Checkpoints(workdir, keep=1) as checkpoints:  # once there is room again
        checkpoints.save(8, state_after(8), {})
    assert load_params(workdir)[1] == 8


@pytest.mark.slow
def test_a_workdir_may_be_copied_into_a_bucket_and_back(tmp_path, run_in_bucket):
    on_disk = with_checkpoints(tmp_path / 'run')
    buckets.upload(on_disk, run_in_bucket, last='')
    assert load_params(run_in_bucket)[1] == 6
    with Checkpoints(run_in_bucket, keep=3) as checkpoints:
        checkpoints.save(8, state_after(8), {})
    params, step = load_params(buckets.local_copy(run_in_bucket))
    assert step == 8
    np.testing.assert_array_equal(params['w'], state_after(8)['params']['w'])


@pytest.mark.slow
@pytest.mark.parametrize('answer', [429, 503, CUT])
@pytest.mark.parametrize('request_of', ['POST /upload.*/ocdbt.process', 'POST /upload.*commit_success', 'POST /upload'])
def test_a_bucket_that_fails_for_a_while_delays_a_save(request_of, answer, run_in_bucket, bucket_server):
    with Checkpoints(run_in_bucket, keep=3) as checkpoints:
        fault = bucket_server.fault(request_of, answer, times=2)
        checkpoints.save(2, state_after(2), {})
    assert fault.happened.is_set()
    params, step = load_params(run_in_bucket)
    assert step == 2
    np.testing.assert_array_equal(params['w'], state_after(2)['params']['w'])


@pytest.mark.slow
def test_a_bucket_that_may_no_longer_be_written_is_one_line_and_leaves_the_last_checkpoint(
    run_in_bucket, bucket_server
):
    workdir = with_checkpoints(run_in_bucket)
    one_line = r'a checkpoint could not be written: .*403.*\. The newest whole one is the one after step 6$'
    bucket_server.fault('POST /upload.*step_8', 403, times=1000)
    with pytest.raises(OSError, match=one_line), Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(8, state_after(8), {})
    bucket_server.lift()
    assert load_params(workdir)[1] == 6


def test_a_checkpoint_is_not_completed_once_the_workdir_belongs_to_another_run(empty):
    def check():
        raise ValueError('taken over')

    with Checkpoints(empty, keep=3) as checkpoints:
        checkpoints.save(2, state_after(2), {})
    checkpoints = Checkpoints(empty, 3, check)
    checkpoints.save(4, state_after(4), {})
    with pytest.raises(OSError, match='taken over'):
        checkpoints.close()
    assert load_params(empty)[1] == 2
