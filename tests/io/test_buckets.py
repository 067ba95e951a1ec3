"""Copies between this machine and a bucket: whole, checked, made once, continued, and what is said if they fail."""

import subprocess
import sys

import pytest

from tests.bucket_copies import CONTENT, write
from tests.bucket_server import CUT, HELD, LOST
from tests.conftest import ROOT
from uwe_jax.io import buckets, paths
from uwe_jax.io.errors import DataError
from uwe_jax.io.files import check_absent, whole_directory, whole_file
from uwe_jax.io.paths import BucketError, NoAnswerError, parse

UPLOADS = 'POST /upload/'
DOWNLOADS = 'GET /download/'


@pytest.fixture
def data(bucket):
    """A path in a bucket, with nothing there."""
    return parse(f'gs://{bucket}/above/data')


def read(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob('*') if p.is_file()}


@pytest.fixture
def written(data, bucket_server):
    write(data)
    bucket_server.requests.clear()
    return data


def seen(bucket_server, what):
    return [line for line in bucket_server.requests if line.startswith(what)]


def in_processes(*arguments, count=1):
    """Starts processes that copy from or write to a bucket."""
    command = [sys.executable, '-m', 'tests.bucket_copies', *map(str, arguments)]
    return [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(count)]


# Up.


def test_a_directory_is_uploaded_whole_with_the_chosen_file_last(data, bucket, bucket_server):
    write(data)
    assert bucket_server.objects(bucket) == {f'above/data/{name}': content for name, content in CONTENT.items()}
    assert 'manifest.json' in seen(bucket_server, UPLOADS)[-1]


def test_after_an_error_nothing_is_uploaded(data, bucket, bucket_server):
    def fail():
        with whole_directory(data, last='manifest.json') as directory:
            (directory / 'a shard').write_bytes(b'half')
            raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        fail()
    assert bucket_server.objects(bucket) == {}


def test_an_output_is_complete_only_with_its_last_file(written):
    with pytest.raises(DataError, match='data: already there'):
        check_absent(written, last='manifest.json')
    paths.client().rm_file(str(written / 'manifest.json'))
    check_absent(written, last='manifest.json')


def test_an_interrupted_upload_is_continued(data, bucket, bucket_server):
    bucket_server.fault(f'{UPLOADS}.*manifest', 403)
    with pytest.raises(BucketError, match='data'):
        write(data)
    assert 'above/data/manifest.json' not in bucket_server.objects(bucket)
    bucket_server.lift()
    bucket_server.requests.clear()
    write(data)
    assert bucket_server.objects(bucket) == {f'above/data/{name}': content for name, content in CONTENT.items()}
    assert len(seen(bucket_server, UPLOADS)) == 2  # one of them tries whether the bucket can be written


def kill_once(held, process):
    """Kills a process when its request is held up."""
    assert held.happened.wait(60)
    process.kill()
    process.wait()


def test_a_process_killed_while_it_uploads_has_completed_nothing(data, bucket, bucket_server):
    held = bucket_server.fault(f'{UPLOADS}.*manifest', HELD)
    kill_once(held, *in_processes('up', data))
    bucket_server.lift()
    check_absent(data, last='manifest.json')
    write(data)
    assert bucket_server.objects(bucket) == {f'above/data/{name}': content for name, content in CONTENT.items()}


def test_a_file_replaces_an_object_when_it_is_complete(data, bucket, bucket_server):
    for content in ('older', 'newer'):
        with whole_file(data) as partial:
            partial.write_text(content)
    assert bucket_server.objects(bucket) == {'above/data': b'newer'}


# Down.


def test_a_copy_is_what_was_written(written):
    assert read(buckets.local_copy(written)) == CONTENT
    shard = buckets.local_copy(written / 'a shard')
    assert (shard.name, shard.read_bytes()) == ('a shard', CONTENT['a shard'])


def test_only_what_is_wanted_is_copied(written):
    assert set(read(buckets.local_copy(written, ['manifest.json', 'nodes/*']))) == {'manifest.json', 'nodes/job.jsonl'}


def test_a_copy_is_made_once(written, bucket_server):
    copy = buckets.local_copy(written)
    downloads = seen(bucket_server, DOWNLOADS)
    assert buckets.local_copy(written) == copy
    assert seen(bucket_server, DOWNLOADS) == downloads


def test_processes_that_start_together_make_one_copy(written, bucket_server):
    processes = in_processes('down', written, count=3)
    printed = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, printed
    assert len(seen(bucket_server, DOWNLOADS)) == len(CONTENT)


def test_what_has_changed_in_the_bucket_is_copied_again(written):
    before = buckets.local_copy(written)
    with whole_file(written / 'a shard') as partial:
        partial.write_bytes(b'other')
    after = buckets.local_copy(written)
    assert (read(before), read(after)) == (CONTENT, CONTENT | {'a shard': b'other'})


def test_what_changes_while_it_is_copied_is_refused(written, bucket_server):
    held = bucket_server.fault(f'{DOWNLOADS}.*a shard', HELD)
    [process] = in_processes('down', written)
    assert held.happened.wait(60)
    with whole_file(written / 'a shard') as partial:
        partial.write_bytes(b'other')
    bucket_server.lift()
    [_, *_, line] = process.communicate(timeout=60)[1].splitlines()
    assert line == f'error: {written}/a shard: changed while it was copied; run the same command again'


def test_a_process_killed_while_it_copies_leaves_what_the_next_one_continues(written, bucket_server):
    held = bucket_server.fault(f'{DOWNLOADS}.*nodes', HELD)
    kill_once(held, *in_processes('down', written))
    bucket_server.lift()
    bucket_server.requests.clear()
    assert read(buckets.local_copy(written)) == CONTENT
    assert 0 < len(seen(bucket_server, DOWNLOADS)) < len(CONTENT)


def test_a_name_that_leads_out_of_the_copy_is_refused(written, bucket, bucket_server):
    bucket_server.ask('POST', f'/upload/storage/v1/b/{bucket}/o?uploadType=media&name=above/data/../../x', b'x')
    with pytest.raises(BucketError, match=r"contains '../../x', which would be a file outside"):
        buckets.local_copy(written)


def test_a_full_disk_is_one_line_that_names_cache_and_bucket(written, tmp_path, monkeypatch):
    full = tmp_path / 'full'
    full.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', full]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('needs the right to mount a small file system')
    monkeypatch.setenv('UWE_JAX_CACHE', str(full))
    try:
        with pytest.raises(DataError) as error:
            buckets.local_copy(written)
    finally:
        subprocess.run(['umount', full], check=True)
    assert str(error.value).startswith(str(full))
    assert f'(No space left on device); free some space for {written}, or set UWE_JAX_CACHE' in str(error.value)


# Faults.


def test_nothing_there_is_not_the_same_as_no_bucket(data):
    with pytest.raises(BucketError, match='data: nothing there'):
        buckets.local_copy(data)
    assert not paths.exists(data)
    for use in (paths.exists, buckets.local_copy, write):
        with pytest.raises(BucketError, match='gs://no-such-bucket/data: there is no such bucket'):
            use(parse('gs://no-such-bucket/data'))


@pytest.mark.parametrize('answer', [401, 403])
def test_without_permission_the_role_that_is_needed_is_named(data, bucket_server, answer):
    bucket_server.fault('.', answer, times=100)
    for use in (paths.exists, buckets.local_copy, write):
        with pytest.raises(BucketError, match=r'data: no permission .*storage\.objectUser'):
            use(data)


def test_a_bucket_that_cannot_be_written_is_refused_before_the_work(data, bucket_server):
    bucket_server.fault(UPLOADS, 403)
    with pytest.raises(BucketError, match='no permission'), whole_directory(data):
        pytest.fail('the work has begun')


@pytest.mark.parametrize(
    ('what', 'answer'),
    [(UPLOADS, 503), (UPLOADS, CUT), (UPLOADS, LOST), (DOWNLOADS, 503), (DOWNLOADS, CUT), ('GET /storage', 429)],
)
def test_a_request_that_fails_once_is_repeated(data, bucket_server, what, answer):
    fault = bucket_server.fault(what, answer)
    write(data)
    assert read(buckets.local_copy(data)) == CONTENT
    assert fault.happened.is_set()


def test_a_large_upload_that_is_cut_within_is_repeated(data, bucket_server):
    fault = bucket_server.fault(f'{UPLOADS}.*upload_id', CUT)
    write(data)
    assert read(buckets.local_copy(data)) == CONTENT
    assert fault.happened.is_set()


@pytest.mark.slow  # six attempts take half a minute
@pytest.mark.parametrize('answer', [503, CUT])
def test_a_bucket_that_does_not_answer_is_given_up_in_one_line(data, bucket_server, answer):
    bucket_server.fault('.', answer, times=100)
    with pytest.raises(NoAnswerError, match=r'data: no answer from Cloud Storage .*; try again later') as given_up:
        write(data)
    assert given_up.value.exit_status == 75  # another start may succeed
    assert len(bucket_server.requests) == 6
