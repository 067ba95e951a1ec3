"""ESCO's reader: what becomes of labels and relations. What it refuses is in tests/data_prep/test_build.py."""

import csv

import pytest

from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import read_esco
from uwe_jax.io.repairs import Repairs


@pytest.fixture
def release(tmp_path):
    """Two skills, one occupation, and a relation of an occupation that is not in the release."""
    files = {
        'skills_en.csv': [
            ('conceptUri', 'preferredLabel', 'altLabels', 'description'),
            ('s1', ' bake  bread', 'make  loaves\nmake loaves\n\nbake bread', 'To bake.'),
            ('s2', 'SQL', '', ''),
        ],
        'occupations_en.csv': [('conceptUri', 'preferredLabel', 'altLabels'), ('o1', 'baker', 'bread maker')],
        'occupationSkillRelations.csv': [
            ('occupationUri', 'relationType', 'skillUri'),
            ('o1', 'optional', 's1'),
            ('o1', 'essential', 's1'),
            ('o9', 'essential', 's2'),
        ],
    }
    for name, rows in files.items():
        with open(tmp_path / name, 'w', newline='') as file:
            csv.writer(file).writerows(rows)
    return tmp_path


def test_labels_are_compared_in_the_form_that_the_caller_gives_them(release):
    written = read_esco(release, Repairs(), strict=False).skills['s1']
    assert written.labels == ('bake  bread', 'make  loaves', 'make loaves', 'bake bread')
    spaced = read_esco(release, Repairs(), lambda text: ' '.join(text.split()), strict=False).skills['s1']
    assert spaced.labels == ('bake bread', 'make loaves')


def test_repairs_are_counted_with_their_places(release):
    repairs = Repairs()
    read_esco(release, repairs, strict=False)
    assert repairs.summary()['blank line in a cell, dropped'] == {'count': 1, 'examples': ['skills_en.csv, line 2']}


def test_of_repeated_relations_the_essential_one_wins(release):
    assert read_esco(release, Repairs(), strict=False).relations == {'o1': {'s1': 'essential'}}


def test_a_relation_that_leads_out_of_the_release_is_an_error_or_dropped(release):
    with pytest.raises(
        DataError, match=r"Relations\.csv, line 4: unknown occupation 'o9'; are all files of one release"
    ):
        read_esco(release, Repairs())
    repairs = Repairs()
    read_esco(release, repairs, strict=False)
    assert repairs['relation to an unknown concept, dropped'] == 1
