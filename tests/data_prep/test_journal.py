"""A journal loses nothing that was written, and has nothing half."""

import resource

import pytest

from data_prep.journal import Journal, read_records
from uwe_jax.io.errors import DataError

SETTINGS = {'model': 'a', 'titles': 5}


def opened(path, settings=SETTINGS):
    """A journal, and the numbers in the records that it took in."""
    numbers = []
    return Journal(path, settings, lambda record, _: numbers.append(record['n'])), numbers


def one(number):
    return {'kind': 'x', 'n': number}


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'journal.jsonl'


def test_what_it_was_given_it_holds_after_a_crash_in_the_middle_of_a_line(path):
    journal, _ = opened(path)
    journal.append(one(1), one(2))
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "x", "n"')
    assert read_records(path, SETTINGS) == [one(1), one(2)]
    again, numbers = opened(path)
    again.append(one(3))
    again.close()
    assert numbers == [1, 2, 3]
    assert path.read_bytes() == whole + b'{"kind": "x", "n": 3}\n'


def test_a_crash_in_the_middle_of_the_settings_leaves_nothing_to_go_on_from(path):
    path.write_bytes(b'{"kind": "settings", "mod')
    assert read_records(path, SETTINGS) == []
    journal, numbers = opened(path)
    journal.append(one(1))
    journal.close()
    assert read_records(path, SETTINGS) == [one(numbers[0])]


def test_a_record_can_be_read_from_its_place(path):
    places = []
    journal = Journal(path, SETTINGS, lambda _, place: places.append(place))
    journal.append({'kind': 'x', 'text': 'é'}, one(2))
    journal.append(one(3))
    assert [journal.read(place) for place in places] == [{'kind': 'x', 'text': 'é'}, one(2), one(3)]
    journal.close()
    known = list(places)
    Journal(path, SETTINGS, lambda _, place: places.append(place)).close()
    assert places == known * 2


def test_a_full_disk_is_said_and_leaves_whole_lines(path):
    journal, numbers = opened(path)
    journal.append(one(1))
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, before[1]))
    try:
        with pytest.raises(DataError, match=r'journal\.jsonl: cannot be written \(File too large\); what it holds is'):
            journal.append(one(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == whole
    journal.append(one(3))
    journal.close()
    assert numbers == [1, 3]
    assert read_records(path, SETTINGS) == [one(1), one(3)]


def test_one_in_use_one_of_other_settings_and_a_damaged_one_are_refused(path):
    journal, _ = opened(path)
    with pytest.raises(DataError, match=r'journal\.jsonl: another process is at work on it; wait for its end'):
        opened(path)
    journal.append(one(1))
    journal.close()
    with pytest.raises(DataError, match=r"journal\.jsonl: begun with model 'a', now 'b'; give the same to go on"):
        opened(path, SETTINGS | {'model': 'b'})
    for line in ('{"kind":', '5', '{"n": 1}'):
        whole = path.read_bytes()
        path.write_bytes(whole + f'{line}\n{{"kind": "x", "n": 2}}\n'.encode())
        with pytest.raises(DataError, match=r'journal\.jsonl, line 3: damaged, expected a JSON object with a kind'):
            opened(path)
        path.write_bytes(whole)
