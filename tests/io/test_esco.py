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


@pytest.fixture
def german(release):
    """The release with its skills and occupations in German, too."""
    files = {
        'skills_de.csv': [
            ('conceptUri', 'preferredLabel', 'altLabels', 'description'),
            ('s1', 'Brot backen', 'Brote backen\nbake bread', 'Backen.'),
            ('s2', 'SQL', 'Abfragesprache', ''),
        ],
        'occupations_de.csv': [('conceptUri', 'preferredLabel', 'altLabels'), ('o1', 'Bäcker/Bäckerin', '')],
    }
    for name, rows in files.items():
        with open(release / name, 'w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows(rows)
    return release


@pytest.mark.parametrize('relations', ['', '_de', '_en', '_fr'])
def test_another_language_has_its_own_labels_and_the_relations_of_any(german, relations):
    (german / 'occupationSkillRelations.csv').rename(german / f'occupationSkillRelations{relations}.csv')
    esco = read_esco(german, Repairs(), strict=False, languages=['de'])
    assert [skill.labels for skill in esco.skills.values()] == [
        ('Brot backen', 'Brote backen', 'bake bread'),
        ('SQL', 'Abfragesprache'),
    ]
    assert esco.skills['s1'].description == 'Backen.'
    assert (esco.occupations['o1'].label, esco.relations) == ('Bäcker/Bäckerin', {'o1': {'s1': 'essential'}})
    assert [path.name for path in esco.files][:2] == ['skills_de.csv', 'occupations_de.csv']


def test_upper_and_lower_case_of_file_names_do_not_matter(german):
    (german / 'skills_de.csv').rename(german / 'Skills_DE.CSV')
    (german / 'occupationSkillRelations.csv').rename(german / 'occupationskillrelations_EN.csv')
    assert [*read_esco(german, Repairs(), strict=False, languages=['De']).skills] == ['s1', 's2']


def test_of_several_languages_the_first_names_and_describes_and_the_others_add_labels(german):
    esco = read_esco(german, Repairs(), strict=False, languages=['de', 'en'])
    assert esco.skills['s1'].labels == (
        'Brot backen',
        'Brote backen',
        'bake bread',
        'bake  bread',
        'make  loaves',
        'make loaves',
    )
    assert esco.skills['s2'].labels == ('SQL', 'Abfragesprache')
    assert esco.skills['s1'].description == 'Backen.'
    assert esco.occupations['o1'].labels == ('Bäcker/Bäckerin', 'baker', 'bread maker')
    names = [
        'skills_de.csv',
        'skills_en.csv',
        'occupations_de.csv',
        'occupations_en.csv',
        'occupationSkillRelations.csv',
    ]
    assert [path.name for path in esco.files] == names


def test_a_language_that_the_folder_does_not_have_is_refused_with_those_that_it_has(german):
    message = r'skills_fr\.csv: missing, and so is skills\.csv; expected .*, but the folder has it in: de, en$'
    with pytest.raises(DataError, match=message):
        read_esco(german, Repairs(), languages=['fr'])


@pytest.mark.parametrize('separator', ['\n', '\r\n', '\r', '\x0b', '\x0c', '\x85', '\u2028', '\u2029'])
def test_labels_in_a_cell_may_be_separated_by_any_line_break(release, separator):
    with open(release / 'skills_en.csv', 'w', newline='', encoding='utf-8') as file:
        rows = [('conceptUri', 'preferredLabel', 'altLabels'), ('s1', 'SQL', f'query{separator}structured query')]
        csv.writer(file).writerows(rows)
    assert read_esco(release, Repairs(), strict=False).skills['s1'].alternatives == ('query', 'structured query')
