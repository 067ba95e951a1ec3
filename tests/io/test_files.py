"""Files and directories that appear when they are complete, and their checksums."""

import pytest

from uwe_jax.io.files import check_writable, checksums, sha256, whole_directory, whole_file


def test_a_file_replaces_an_older_one_only_when_it_is_complete(tmp_path):
    output = tmp_path / 'map.png'
    output.write_text('older')

    def draw():
        with whole_file(output) as partial:
            partial.write_text('half')
            raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        draw()
    assert output.read_text() == 'older'
    assert list(tmp_path.iterdir()) == [output]
    with whole_file(output) as partial:
        partial.write_text('newer')
        assert output.read_text() == 'older'
    assert output.read_text() == 'newer'
    assert list(tmp_path.iterdir()) == [output]


def test_a_directory_is_not_there_before_it_is_complete(tmp_path):
    output = tmp_path / 'above' / 'data'

    def write():
        with whole_directory(output) as partial:
            (partial / 'one').write_text('1')
            raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write()
    assert list(output.parent.iterdir()) == []
    with whole_directory(output) as partial:
        (partial / 'one').write_text('1')
        assert not output.exists()
    assert list(output.parent.iterdir()) == [output]
    assert (output / 'one').read_text() == '1'


def test_an_output_that_could_not_be_written_is_refused_before_the_work(tmp_path):
    check_writable(tmp_path / 'above' / 'map.png')
    assert list((tmp_path / 'above').iterdir()) == []
    (tmp_path / 'file').write_text('')
    with pytest.raises(NotADirectoryError, match='file'):
        check_writable(tmp_path / 'file' / 'map.png')
    with pytest.raises(IsADirectoryError, match='above'):
        check_writable(tmp_path / 'above')


def test_checksums_go_by_as_much_of_the_path_as_tells_files_apart(tmp_path):
    paths = [tmp_path / 'july' / 'jobs.csv', tmp_path / 'june' / 'jobs.csv']
    for path in paths:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    assert checksums(paths) == {'july/jobs.csv': sha256(paths[0]), 'june/jobs.csv': sha256(paths[1])}
    assert checksums(paths[:1]) == {'jobs.csv': sha256(paths[0])}
    assert checksums([]) == {}
