"""Files and directories that appear when they are complete."""

import pytest

from uwe_jax.files import whole_directory, whole_file


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
