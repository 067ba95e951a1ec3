"""Tagging: which skills a sentence gets, and that pieces appear whole, are made once, and may be shared."""

import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import tag
from data_prep.tag.pieces import Input, Piece
from tests.conftest import ROOT, two_environments, without_weights, write_csv
from tests.data_prep.conftest import write_jsonl
from uwe_jax.interaction import Score
from uwe_jax.io import console
from uwe_jax.io.errors import DataError
from uwe_jax.ranking import Ranker

SKILL = 'http://esco/skill/'
SKILLS = {
    'sql': 'SQL',
    'bake': 'bake bread',
    'care': 'care for patients',
    'drive': 'drive a bus',
    'data': 'analyse data',
}
SENTENCES = ['You write SQL.', 'You bake bread and cakes.', 'You care for patients at night.', 'You drive our bus.']
VACANCIES = [
    {'url': 'https://jobs/1', 'title': 'data  engineer', 'description': 'You write SQL. You bake bread and cakes.'},
    {'title': 'nurse', 'sentence': 'You care for patients at night.', 'skills': []},
    {'id': 3, 'title': 'driver', 'description': '• You drive our bus.\n\n• You write SQL.', 'language': 'en-GB'},
    {'id': 4, 'title': 'baker', 'description': 'You bake.', 'skills': ['BAKE BREAD']},
    {'id': 5, 'title': 'clerk', 'description': '', 'skills': ['no skill of ESCO']},
]


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def esco(tmp_path_factory):
    directory = tmp_path_factory.mktemp('release') / 'esco'
    directory.mkdir()
    skills = [{'conceptUri': SKILL + name, 'preferredLabel': label} for name, label in SKILLS.items()]
    write_csv(directory / 'skills_en.csv', skills)
    write_csv(directory / 'occupations_en.csv', [{'conceptUri': 'http://esco/job', 'preferredLabel': 'worker'}])
    relation = {'occupationUri': 'http://esco/job', 'relationType': 'optional', 'skillUri': SKILL + 'sql'}
    write_csv(directory / 'occupationSkillRelations_en.csv', [relation])
    return directory


@pytest.fixture
def flags(tmp_path, esco, narrow_model):
    """The command's flags, with the vacancies above."""
    return flags_in(tmp_path, esco, narrow_model)


@pytest.fixture(scope='module')
def made(tmp_path_factory, esco, narrow_model):
    """A directory with the vacancies above, and what the command makes of them."""
    directory = tmp_path_factory.mktemp('made')
    run(flags_in(directory, esco, narrow_model))
    return directory


@pytest.fixture
def tagged(made, flags):
    """The flags after a run."""
    shutil.copytree(made / 'tagged', flags['output'])
    return flags


def flags_in(directory, esco, model):
    write_jsonl(directory / 'vacancies.jsonl', VACANCIES)
    return {
        'vacancies': directory / 'vacancies.jsonl',
        'esco': esco,
        'model': model,
        'output': directory / 'tagged',
        'threshold': -1,
        'piece_rows': 2,
    }


def as_text(flags):
    return [f'--{name}={value}' for name, value in flags.items()]


def run(flags, **changes):
    tag.run(console.parse(tag.Options, as_text(flags | changes)), 'the command')


def lines_of(directory):
    return [line for path in sorted(directory.glob('piece-*.jsonl')) for line in read_jsonl(path)]


def by_name(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.glob('piece-*'))}


def test_every_sentence_without_skills_gets_those_of_the_ranker(made, narrow_model):
    lines = lines_of(made / 'tagged')
    assert [(line['vacancy'], line['title'], line['sentence']) for line in lines] == [
        ('https://jobs/1', 'data engineer', 'You write SQL.'),
        ('https://jobs/1', 'data engineer', 'You bake bread and cakes.'),
        ('vacancies.jsonl, line 2', 'nurse', 'You care for patients at night.'),
        ('3', 'driver', 'You drive our bus.'),
        ('3', 'driver', 'You write SQL.'),
    ]
    expected = Ranker.from_pretrained(narrow_model).score([line['sentence'] for line in lines], list(SKILLS.values()))
    uris = [SKILL + name for name in SKILLS]
    for line, scores in zip(lines, expected, strict=True):
        order = np.argsort(-scores, kind='stable')
        assert line['skills'] == [uris[skill] for skill in order]
        np.testing.assert_allclose(line['scores'], scores[order], atol=1e-5)
    assert len({line['model'] for line in lines}) == 1


def test_mean_pooling_scores_by_the_cosines_of_means_and_counts_as_another_model(made, flags, narrow_model):
    run(flags, pooling='mean')
    lines = lines_of(flags['output'])
    assert lines[0]['model'] != lines_of(made / 'tagged')[0]['model']
    ranker = Ranker.from_pretrained(narrow_model, pooling='mean')
    expected = ranker.score([line['sentence'] for line in lines], list(SKILLS.values()))
    for line, scores in zip(lines, expected, strict=True):
        np.testing.assert_allclose(line['scores'], sorted(scores, reverse=True), atol=1e-5)


def test_only_scores_from_the_threshold_on_are_kept_and_at_most_k(tagged):
    flags, everything = tagged, lines_of(tagged['output'])
    all_scores = np.sort([score for line in everything for score in line['scores']])
    below = 1 + int(np.argmax(np.diff(all_scores)))  # the widest gap, as equal sentences have equal scores
    threshold = float(all_scores[below - 1 : below + 1].mean())
    run(flags, threshold=threshold, output=flags['output'].with_name('few'))
    few = lines_of(flags['output'].with_name('few'))
    assert sum(len(line['scores']) for line in few) == len(all_scores) - below
    assert min(score for line in few for score in line['scores']) > threshold
    assert all(line['skills'] for line in few)  # a sentence without skills makes no line
    run(flags, k=2, output=flags['output'].with_name('two'))
    best = [(line['skills'][:2], line['scores'][:2]) for line in everything]
    assert [(line['skills'], line['scores']) for line in lines_of(flags['output'].with_name('two'))] == best


def test_the_manifest_says_what_was_made_and_of_what(made):
    manifest = json.loads((made / 'tagged' / 'manifest.json').read_text())
    assert manifest['counts'] == {
        'pieces': 3,
        'rows': 5,
        'with_skills_of_their_own': 1,
        'sentences': 5,
        'tagged_sentences': 5,
        'edges': 25,
    }
    assert manifest['command'] == 'the command'
    made_with = manifest['made_with']
    assert (made_with['pooling'], made_with['threshold'], made_with['k']) == ('tokens', -1.0, 10)
    assert made_with['model'] == lines_of(made / 'tagged')[0]['model']
    sizes = {path.name: path.stat().st_size for path in (made / 'tagged').glob('*.jsonl')}
    assert {name: file['bytes'] for name, file in manifest['files'].items()} == sizes


@pytest.mark.parametrize('ending', ['csv', 'parquet'])
def test_tables_of_other_kinds_with_other_columns_read_the_same(flags, ending):
    table = flags['vacancies'].with_name(f'table.{ending}')
    rows = [{'id': str(n), 'name': f'job {n}', 'text': sentence} for n, sentence in enumerate(SENTENCES)]
    if ending == 'csv':
        write_csv(table, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    run(flags, vacancies=table, title_column='name', sentence_column='text', piece_rows=9)
    sentences = [(line['vacancy'], line['title'], line['sentence']) for line in lines_of(flags['output'])]
    assert sentences == [tuple(row.values()) for row in rows]


def test_vacancies_and_the_release_may_be_in_another_language(flags, esco, tmp_path):
    german = tmp_path / 'german'
    german.mkdir()
    for name in ('skills', 'occupations', 'occupationSkillRelations'):
        shutil.copy(esco / f'{name}_en.csv', german / f'{name}_de.csv')
    write_jsonl(flags['vacancies'], [{'title': 'Bäcker', 'description': 'Gut ist z.B. Roggen. Ja.'}])
    run(flags, esco=german, language='de')
    assert [line['sentence'] for line in lines_of(flags['output'])] == ['Gut ist z.B. Roggen.', 'Ja.']


def test_a_finished_piece_is_not_made_again_and_a_lost_one_is(tagged):
    flags = tagged
    before = by_name(flags['output'])
    times = {path: path.stat().st_mtime_ns for path in flags['output'].glob('piece-*')}
    lost = flags['output'] / 'piece-00001.jsonl'  # its description stays, as when the run stops between the two
    lost.unlink()
    run(flags)
    assert by_name(flags['output']) == before
    made = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert made == {'piece-00001.json', 'piece-00001.jsonl'}


def shorten(flags):
    write_jsonl(flags['vacancies'], VACANCIES[:2])


def change_a_row(flags):
    write_jsonl(flags['vacancies'], [*VACANCIES[:4], VACANCIES[4] | {'title': 'porter'}])


def cut_off(flags):
    path = flags['output'] / 'piece-00001.jsonl'
    path.write_bytes(path.read_bytes()[:-9])


def lose_the_description(flags):
    (flags['output'] / 'piece-00000.json').unlink()


@pytest.mark.parametrize(
    ('damage', 'changes', 'message'),
    [
        (None, {'threshold': 0.5}, r'piece-00000\.jsonl: made with threshold=-1\.0, but now threshold=0\.5; choose'),
        (None, {'k': 3, 'pooling': 'mean'}, r'made with model=\w+, pooling=tokens, k=10, but now model=\w+, pooling=m'),
        (None, {'piece_rows': 3}, r'made with piece_rows=2, rows=2, sha256_of_rows=\w+, but now piece_rows=3, rows=3'),
        (change_a_row, {}, r'piece-00002\.jsonl: made with sha256_of_rows=\w+, but now sha256_of_rows='),
        (shorten, {}, r'piece-00001\.jsonl: beyond the 1 pieces of this input'),
        (cut_off, {}, r'piece-00001\.jsonl: \d+ bytes, but \d+ were written; remove it'),
        (lose_the_description, {}, r'piece-00000\.json: cannot be read .*; remove piece-00000\.jsonl too'),
    ],
)
def test_a_piece_of_another_run_is_an_error_that_says_what_differs(tagged, damage, changes, message):
    flags = tagged
    if damage:
        damage(flags)
    before = by_name(flags['output'])
    with pytest.raises(DataError, match=message) as caught:
        run(flags, **changes)
    assert '\n' not in str(caught.value)
    assert by_name(flags['output']) == before


REFUSED = {
    'no file': ({'vacancies': 'nowhere/*.jsonl'}, None, r'--vacancies=nowhere/\*\.jsonl: matches no file'),
    'no rows': ({}, '', r'vacancies\.jsonl: no rows in 1 files'),
    'not JSON': ({}, '{"title": "a", "sentence": "b"}\n{"title"\n', r'vacancies\.jsonl, line 2: not JSON'),
    'no text': (
        {},
        '{"title": "a"}\n',
        r"vacancies\.jsonl, line 1: no column 'sentence' or 'description'; found t",
    ),
    'no such column': ({'sentence_column': 'text'}, None, r"vacancies\.jsonl, line 1: no column 'text'; found url"),
    'a number for text': ({}, '{"sentence": 7}\n', r"line 1: sentence is '7' \(int\), expected text"),
    'skills that are no names': (
        {},
        '{"sentence": "a", "skills": [1]}\n',
        r"skills is '\[1\]' \(list\), expected a list of n",
    ),
    'a table of another kind': ({'vacancies': __file__}, None, r'test_tag\.py: expected a table that ends in \.csv'),
    'no ESCO': ({'esco': 'nowhere'}, None, r'nowhere: no such directory, expected the folder of an ESCO release'),
    'k of none': ({'k': 0}, None, r'--k=0: expected 1 or more'),
    'a threshold that is not a number': ({'threshold': 'nan'}, None, r'--threshold=nan: expected a finite number'),
    'pieces of nothing': ({'piece_rows': 0}, None, r'--piece_rows=0: expected 1 or more'),
    'an output below a file': ({'output': f'{__file__}/out'}, None, r'out: cannot be written \(Not a directory\)'),
    'an output that is a file': ({'output': __file__}, None, r'test_tag\.py: is a file, expected a directory'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_bad_input_is_refused_by_name_before_the_model_is_read(name, flags, narrow_model, tmp_path):
    changes, content, message = REFUSED[name]
    flags['model'] = without_weights(narrow_model, tmp_path / 'unreadable', Score())
    if content is not None:
        flags['vacancies'].write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        run(flags, **changes)
    assert '\n' not in str(caught.value)
    assert not flags['output'].exists()


def test_a_model_that_does_not_fit_is_refused_by_name(flags, narrow_model, tmp_path):
    shutil.copytree(narrow_model, tmp_path / 'model')
    (tmp_path / 'model' / 'uwe.json').write_text('{"score": {"kind": "best"}}')
    with pytest.raises(DataError, match=r"--model=.*model: .*uwe\.json: score\.kind: 'best', expected one of"):
        run(flags, model=tmp_path / 'model')


@given(counts=st.lists(st.integers(0, 7), min_size=1, max_size=5), size=st.integers(1, 6), data=st.data())
@settings(deadline=None)
def test_pieces_are_the_rows_of_all_files_in_order_wherever_files_end(counts, size, data):
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as directory:
        paths = [pathlib.Path(directory) / f'{n}.txt' for n in range(len(counts))]
        for path, count in zip(paths, counts, strict=True):
            path.write_text(''.join(f'{next(numbers)}\n' for _ in range(count)))
        whole = Input(paths, lambda path: iter(path.read_text().splitlines()), size)
        rows = [str(n) for n in range(sum(counts))]
        expected = [rows[first : first + size] for first in range(0, len(rows), size)]
        assert [piece.rows for piece in whole.pieces] == [len(chunk) for chunk in expected]
        wanted = data.draw(st.sets(st.sampled_from(whole.pieces))) if whole.pieces else set()
        read = {piece.number: rows for piece, rows in whole.rows_of(wanted)}
        assert read == {piece.number: expected[piece.number] for piece in wanted}


def test_an_input_that_changes_under_way_is_refused(tmp_path):
    path = tmp_path / 'rows.txt'
    path.write_text('a\nb\nc\n')
    (tmp_path / 'more.txt').write_text('e\nf\n')
    whole = Input([path, tmp_path / 'more.txt'], lambda path: iter(path.read_text().splitlines()), 2)
    (tmp_path / 'more.txt').write_text('e\ng\n')
    with pytest.raises(DataError, match=r'more\.txt: changed while it was being read'):
        list(whole.rows_of(whole.pieces))
    whole = Input([path], lambda path: iter(path.read_text().splitlines()), 2)
    path.write_text('a\nb\nd\n')
    assert [rows for _, rows in whole.rows_of(whole.pieces[:1])] == [['a', 'b']]
    for changed in (whole.pieces[1], Piece(2, 0, 3, 1, '')):
        with pytest.raises(DataError, match='changed while it was being read; start again'):
            list(whole.rows_of([changed]))


# From here on, whole programs.


@pytest.fixture(scope='module')
def many(tmp_path_factory, esco, narrow_model):
    """The flags for seven pieces, and what one process makes of them."""
    directory = tmp_path_factory.mktemp('many')
    write_jsonl(directory / 'v.jsonl', [{'title': f'job {n}', 'sentence': SENTENCES[n % 4]} for n in range(7)])
    flags = {'vacancies': directory / 'v.jsonl', 'esco': esco, 'model': narrow_model, 'threshold': 0.1, 'piece_rows': 1}
    run(flags, output=directory / 'alone')
    return flags, by_name(directory / 'alone')


def start(flags, **environment):
    return subprocess.Popen(
        [sys.executable, '-m', 'data_prep', 'tag', *as_text(flags)],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(flags):
    """Two processes that know of each other."""
    return [start(flags, **environment) for environment in two_environments()]


def finished(processes):
    """The logs of processes that come to a good end."""
    logs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(logs), '\n'.join(logs)
    return logs


def made_in(directory):
    """When each piece was made, by its number."""
    return {int(path.stem[-5:]): path.stat().st_mtime_ns for path in directory.glob('piece-*.jsonl')}


@pytest.mark.slow
def test_two_processes_share_the_pieces_and_what_a_killed_one_left_is_made_later(many, tmp_path):
    flags, alone = many
    first, second = start_two(flags | {'output': tmp_path})
    assert any('7 pieces, of which 3 are for this process to make' in line for line in second.stderr or ())
    second.kill()  # before it has embedded the skills
    second.wait()
    [log] = finished([first])
    assert '7 pieces, of which 4 are for this process to make' in log
    assert f'{tmp_path}: 3 pieces are still missing' in log
    assert not (tmp_path / 'manifest.json').exists()
    kept = made_in(tmp_path)
    assert kept.keys() == {0, 2, 4, 6}
    logs = finished(start_two(flags | {'output': tmp_path}))
    assert [re.findall(r'of which (\d) are', log) for log in logs] == [['0'], ['3']]
    assert made_in(tmp_path) == made_in(tmp_path) | kept
    assert by_name(tmp_path) == alone
    counts = json.loads((tmp_path / 'manifest.json').read_text())['counts']
    assert (counts['pieces'], counts['rows']) == (7, 7)


@pytest.mark.slow
@pytest.mark.skipif(find_spec('apache_beam') is None, reason='needs an environment with the extra beam')
def test_beam_makes_what_one_process_makes(many, tmp_path):
    flags, alone = many
    command = [sys.executable, '-m', 'data_prep.tag_beam', *as_text(flags | {'output': tmp_path})]
    done = subprocess.run([*command, '--runner=DirectRunner'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert by_name(tmp_path) == alone
    assert (tmp_path / 'manifest.json').exists()


OF_BEAM = ['--runner=DirectRunner', '--flink-master', 'x:1', '--experiments=a_b', '--direct_num_workers', '2']


@pytest.mark.parametrize('first', [True, False])
def test_options_that_tag_does_not_have_are_passed_on_to_beam_as_typed(first):
    flags = ['--vacancies=a_b.csv', '--vacancies=c.csv', '--esco=e-f', '--output=o', '--threshold=0.5', '--k=3']
    options, of_beam = console.parse_some(tag.Options, [*OF_BEAM, *flags] if first else [*flags, *OF_BEAM], 'x')
    assert of_beam == OF_BEAM
    assert options == tag.Options(('a_b.csv', 'c.csv'), pathlib.Path('e-f'), pathlib.Path('o'), threshold=0.5, k=3)
