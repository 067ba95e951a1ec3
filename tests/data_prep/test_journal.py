"""A journal is resumed with the settings that it was begun with, and with no others."""

import pytest

from data_prep.journal import open_journal, read_records
from uwe_jax.io.errors import DataError

SETTINGS = {'model': 'a', 'titles': 5}


@pytest.fixture
def path(tmp_path):
    """A journal with one record."""
    path = tmp_path / 'journal.jsonl'
    with open_journal(path, SETTINGS) as journal:
        journal.append(numbered(1))
    return path


def numbered(number):
    return {'kind': 'x', 'n': number}


def records_of(path, settings=SETTINGS):
    return [record for record, _ in read_records(path, settings)]


def test_without_a_file_there_are_no_records(tmp_path):
    assert records_of(tmp_path / 'none') == []


def test_it_goes_on_behind_its_records(path):
    with open_journal(path, SETTINGS) as journal:
        [place] = journal.append(numbered(2))
        assert journal.read(place) == numbered(2)
    assert records_of(path) == [numbered(1), numbered(2)]


def test_a_crash_in_the_middle_of_a_record_costs_this_record(path):
    path.write_bytes(path.read_bytes() + b'{"kind": "x", "n"')
    assert records_of(path) == [numbered(1)]


def test_a_crash_in_the_middle_of_the_settings_leaves_nothing_to_go_on_from(path):
    path.write_bytes(b'{"kind": "settings", "mod')
    assert records_of(path) == []
    with open_journal(path, SETTINGS) as journal:
        journal.append(numbered(1))
    assert records_of(path) == [numbered(1)]


def test_other_settings_are_refused_by_the_name_of_the_first_that_differs(path):
    with pytest.raises(DataError, match=r"journal\.jsonl: begun with model 'a', now 'b'; use the same to resume"):
        records_of(path, SETTINGS | {'model': 'b'})


@pytest.mark.parametrize('line', ['{"kind":', '5', '{"n": 1}'])
def test_a_damaged_record_is_refused_by_its_line(path, line):
    path.write_bytes(path.read_bytes() + f'{line}\n{{"kind": "x", "n": 2}}\n'.encode())
    with pytest.raises(DataError, match=r'journal\.jsonl, line 3: damaged, expected .*; restore the file'):
        records_of(path)
