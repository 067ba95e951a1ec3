"""Objects in a bucket are replaced only as long as nobody else has replaced them."""

import pytest

from tests.bucket_server import CUT, LOST
from uwe_jax.io import paths
from uwe_jax.io.errors import DataError
from uwe_jax.io.generations import WorkingCopy, find


@pytest.fixture
def folder(bucket):
    return paths.parse(f'gs://{bucket}/run')


def test_files_on_this_machine_are_written_where_they_belong(tmp_path):
    files = WorkingCopy(tmp_path)
    (files.folder / 'a').write_text('1')
    files.publish()
    assert (tmp_path / 'a').read_text() == '1'


def test_files_appear_in_the_bucket_when_they_are_published(folder):
    files = WorkingCopy(folder)
    (files.folder / 'sub').mkdir()
    (files.folder / 'sub' / 'a').write_text('1')
    assert not (folder / 'sub' / 'a').exists()
    files.publish()
    assert (folder / 'sub' / 'a').read_text() == '1'


def test_only_what_has_changed_is_published_again(folder):
    files = WorkingCopy(folder)
    for name in 'ab':
        (files.folder / name).write_text('1')
    files.publish()
    before = {name: find(folder / name).generation for name in 'ab'}
    (files.folder / 'a').write_text('12')
    files.publish()
    assert (folder / 'a').read_text() == '12'
    assert [find(folder / name).generation == before[name] for name in 'ab'] == [False, True]


def test_files_that_exist_are_continued(folder):
    (folder / 'a').write_text('1')
    files = WorkingCopy(folder, ['a', 'b'])
    with open(files.folder / 'a', 'a') as file:
        file.write('2')
    files.publish()
    assert (folder / 'a').read_text() == '12'
    assert not (folder / 'b').exists()


def test_a_file_that_another_process_has_replaced_is_left_as_it_is(folder):
    first, second = WorkingCopy(folder), WorkingCopy(folder)
    for number, files in enumerate((first, second)):
        (files.folder / 'a').write_text(str(number))
    second.publish()
    with pytest.raises(DataError, match='run/a: another process has replaced it; only one may'):
        first.publish()
    assert (folder / 'a').read_text() == '1'


def test_an_upload_whose_answer_is_lost_is_not_taken_for_another_process(folder, bucket_server):
    files = WorkingCopy(folder)
    (files.folder / 'a').write_text('1')
    lost = bucket_server.fault('POST /upload', LOST)
    files.publish()
    assert lost.happened.is_set()
    (files.folder / 'a').write_text('12')
    files.publish()
    assert (folder / 'a').read_text() == '12'


@pytest.mark.parametrize('answer', [429, 503, CUT])
def test_a_request_that_fails_for_a_passing_reason_is_repeated(folder, bucket_server, answer):
    files = WorkingCopy(folder)
    (files.folder / 'a').write_text('1')
    fault = bucket_server.fault('POST /upload', answer, times=2)
    files.publish()
    assert fault.happened.is_set()
    assert (folder / 'a').read_text() == '1'


def test_no_permission_is_named(folder, bucket_server):
    bucket_server.fault('POST /upload', 403)
    files = WorkingCopy(folder)
    (files.folder / 'a').write_text('1')
    with pytest.raises(paths.BucketError, match=r'run/a: no permission \(.*made by a test: 403'):
        files.publish()


def test_a_bucket_that_does_not_exist_is_named(bucket):
    files = WorkingCopy(paths.parse('gs://nowhere/run'))
    (files.folder / 'a').write_text('1')
    with pytest.raises(paths.BucketError, match='gs://nowhere/run/a: there is no such bucket'):
        files.publish()
