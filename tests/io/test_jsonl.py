"""A JSONL file that grows loses nothing that was written, and has nothing half."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwe_jax.io.errors import DataError
from uwe_jax.io.jsonl import ResumableJsonl, read_whole_lines

VALUES = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'lines.jsonl'


def values_in(path):
    return [value for value, _ in read_whole_lines(path)]


@given(values=st.lists(VALUES, min_size=1, max_size=5), share=st.floats(0, 1))
def test_cut_anywhere_it_has_its_whole_lines_and_goes_on_behind_them(tmp_path_factory, values, share):
    path = tmp_path_factory.mktemp('cut') / 'lines.jsonl'
    with ResumableJsonl(path) as file:
        file.append(*values)
    content = path.read_bytes()
    content = content[: round(share * len(content))]
    path.write_bytes(content)
    whole = values[: content.count(b'\n')]
    assert values_in(path) == whole
    with ResumableJsonl(path) as file:
        file.append('next')
    assert values_in(path) == [*whole, 'next']
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [*whole, 'next']


def test_a_dropped_line_is_a_warning(path, caplog):
    path.write_text('1\n2')
    with ResumableJsonl(path):
        assert 'lines.jsonl: the last line was cut short by a crash; it is dropped' in caplog.text


def test_a_value_can_be_read_from_its_place(path):
    with ResumableJsonl(path) as file:
        places = [*file.append('é', 2), *file.append(3)]
        assert [file.read(place) for place in places] == ['é', 2, 3]
    assert list(read_whole_lines(path)) == list(zip(['é', 2, 3], places, strict=True))


def test_threads_may_share_one(path):
    with ResumableJsonl(path) as file, ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda number: file.append(number)[0], range(100)))
        assert [file.read(place) for place in places] == list(range(100))
    assert sorted(values_in(path)) == list(range(100))


def test_a_full_disk_is_an_error_and_leaves_whole_lines(path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ResumableJsonl(path) as file:
        file.append(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        try:
            with pytest.raises(
                DataError, match=r'lines\.jsonl: cannot be written \(File too large\); the lines in it are'
            ):
                file.append(2, 'x' * 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == b'1\n'
        file.append(3)
    assert values_in(path) == [1, 3]


def test_a_damaged_line_is_an_error_that_names_it(path):
    path.write_text('1\n{"kind":\n3\n')
    with pytest.raises(DataError, match=r'lines\.jsonl, line 2: damaged, expected JSON; restore the file'):
        values_in(path)
