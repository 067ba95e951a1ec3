"""The command line that ranks, and the file that it writes for many queries."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, without_weights
from uwe_jax.interaction import Score
from uwe_jax.io.console import parse
from uwe_jax.io.files import whole_directory, whole_file
from uwe_jax.rank import Options, rank
from uwe_jax.ranking.bulk import rank_into

SKILLS = ['bake bread', 'SQL', 'care for patients']
TITLES = [f'{title} {number}' for number, title in enumerate(['baker', 'data engineer', 'nurse'] * 3)]


@pytest.fixture
def options(narrow_model, tmp_path):
    """The options of a command that ranks SKILLS, without what is asked."""
    skills = tmp_path / 'skills.csv'
    skills.write_text('id,label\n' + ''.join(f'{n},{skill}\n' for n, skill in enumerate(SKILLS)))
    return {'model': str(narrow_model), 'targets': skills, 'column': 'label'}


@pytest.fixture(scope='module')
def index(ranker):
    return ranker.index(SKILLS)


def table(index, queries, k):
    return '\n\n'.join(
        '\n'.join([query, *(f'  {hit.score:.3f}  {hit.text}' for hit in hits)])
        for query, hits in zip(queries, index.rank(queries, k), strict=True)
    )


def test_the_command_line_prints_a_table(index, options):
    arguments = [f'--{name}={value}' for name, value in options.items()]
    command = [sys.executable, '-m', 'uwe_jax.rank', *arguments, '--k=2', 'baker', 'night nurse']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f'\n{table(index, ["baker", "night nurse"], 2)}\n'


def test_model_targets_and_queries_may_be_in_a_bucket(options, narrow_model, bucket, tmp_path):
    with whole_directory(f'gs://{bucket}/model', last='config.json') as copy:
        shutil.copytree(narrow_model, copy, dirs_exist_ok=True)
    for name, text in (('skills.csv', options['targets'].read_text()), ('titles.txt', '\n'.join(TITLES))):
        with whole_file(f'gs://{bucket}/{name}') as file:
            file.write_text(text)
    flags = [f'--model=gs://{bucket}/model', f'--targets=gs://{bucket}/skills.csv', f'--input=gs://{bucket}/titles.txt']
    rank(parse(Options, [*flags, '--column=label', f'--output={tmp_path}/ranked.jsonl']))
    lines = (tmp_path / 'ranked.jsonl').read_text().splitlines()
    assert [json.loads(line)['query'] for line in lines] == TITLES


def test_a_model_whose_skills_attend_has_to_be_told_where_they_are(options, narrow_model, tmp_path, ranker, capsys):
    without = without_weights(narrow_model, tmp_path / 'without', Score(attend='from_skill'))
    with pytest.raises(ValueError, match="expected attend='query' if the targets are skills"):
        rank(Options(**options | {'model': str(without)}, queries=('baker',)))
    rank(Options(**options, queries=('baker',), attend='query'))
    ranked = ranker.with_score(Score(attend='query')).index(SKILLS)
    assert capsys.readouterr().out.strip() == table(ranked, ['baker'], 5)


def test_queries_may_stand_before_the_flags_or_behind():
    flags = ['--model=m', '--targets=t']
    for arguments in (['baker', 'night nurse', *flags], [*flags, 'baker', 'night nurse']):
        assert parse(Options, arguments).queries == ('baker', 'night nurse')


def test_the_index_is_kept_for_the_next_time(options, tmp_path, capsys, caplog):
    asked = Options(**options, index=str(tmp_path / 'index'), queries=('baker', 'nurse'))
    with caplog.at_level('INFO', 'uwe_jax'):
        rank(asked)
        assert f'kept the embedded targets in {tmp_path / "index"}' in caplog.messages
        printed = capsys.readouterr().out
        caplog.clear()
        rank(asked)
        assert not any('kept' in message for message in caplog.messages)
    assert capsys.readouterr().out == printed


def test_an_index_of_other_targets_is_refused(options, tmp_path, index):
    index.save(tmp_path / 'index')
    options['targets'].write_text('label\nbake bread\n')
    with pytest.raises(ValueError, match=r'index: holds other targets than \S+skills\.csv; remove it to make it again'):
        rank(Options(**options, index=str(tmp_path / 'index'), queries=('baker',)))


def test_many_queries_are_ranked_into_a_file(options, index, tmp_path):
    (tmp_path / 'titles.txt').write_text('\n'.join(TITLES) + '\n\n')
    rank(Options(**options, input=tmp_path / 'titles.txt', output=tmp_path / 'out.jsonl', k=1))
    lines = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert [line['query'] for line in lines] == TITLES
    assert [line['targets'][0]['text'] for line in lines] == [hits[0].text for hits in index.rank(TITLES, 1)]


def test_an_output_that_exists_is_refused(options, tmp_path):
    (tmp_path / 'out.jsonl').touch()
    with pytest.raises(ValueError, match=r'out\.jsonl: already there; choose another --output or remove it'):
        rank(Options(**options, input=tmp_path / 'titles.txt', output=tmp_path / 'out.jsonl'))


@pytest.mark.parametrize(
    'output',
    [
        {'index': '/dev/null/index', 'queries': ('x',)},
        {'input': pathlib.Path('x'), 'output': pathlib.Path('/dev/null/o')},
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(options, output):
    with pytest.raises(NotADirectoryError):
        rank(Options(**options | {'model': 'none'}, **output))


@pytest.mark.parametrize('file', ['targets', 'input'])
def test_a_file_without_texts_is_refused(options, tmp_path, file):
    (tmp_path / 'empty.txt').write_text('\n')
    (tmp_path / 'titles.txt').write_text('baker\n')
    paths = {'input': tmp_path / 'titles.txt', 'output': tmp_path / 'out.jsonl', file: tmp_path / 'empty.txt'}
    with pytest.raises(ValueError, match=r'empty\.txt: contains no text'):
        rank(Options(**options | paths))


@pytest.mark.parametrize(
    ('asked', 'message'),
    [
        ({}, 'expected either queries after the flags or --input'),
        ({'input': 'x.txt', 'queries': ('baker',)}, 'expected either queries after the flags or --input'),
        ({'input': 'x.txt'}, '--input and --output: expected both or neither'),
        ({'queries': ('baker',), 'k': 0}, '--k: 0, expected a whole number above 0'),
        ({'queries': ('baker', ' ')}, "query 2: ' ', expected a text that is not blank"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, asked, message):
    with pytest.raises(ValueError, match=message):
        rank(Options(**options, **asked))


def broken(queries, fine):
    """Queries whose reading breaks off after some."""
    yield from queries[:fine]
    raise KeyboardInterrupt


MANY = [f'{title} {number}' for number in range(120) for title in ('baker', 'data engineer', 'nurse')]


def test_an_interrupted_run_continues_where_it_stopped(index, tmp_path):
    rank_into(tmp_path / 'whole.jsonl', index, MANY, 2, ['settings'], len(MANY))
    with pytest.raises(KeyboardInterrupt):
        rank_into(tmp_path / 'out.jsonl', index, broken(MANY, 300), 2, ['settings'], len(MANY))
    assert not (tmp_path / 'out.jsonl').exists()
    [partial] = tmp_path.glob('.out*')
    done = partial.read_text()
    assert 0 < done.count('\n') < 300
    partial.write_text(done + '{"query": "a line that was being wr')
    ranked_before = iter(['not ranked again'] * done.count('\n') + MANY[done.count('\n') :])
    rank_into(tmp_path / 'out.jsonl', index, ranked_before, 2, ['settings'], len(MANY))
    assert (tmp_path / 'out.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.jsonl', 'whole.jsonl']


def test_a_run_with_other_settings_begins_anew(index, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rank_into(tmp_path / 'out.jsonl', index, broken(MANY, 300), 2, ['settings'], len(MANY))
    rank_into(tmp_path / 'out.jsonl', index, TITLES[:1], 2, ['other settings'], 1)
    [line] = (tmp_path / 'out.jsonl').read_text().splitlines()
    assert json.loads(line)['query'] == TITLES[0]


def test_a_second_run_with_the_same_output_is_refused(index, tmp_path):
    def meanwhile():
        with pytest.raises(ValueError, match=r'out\.jsonl'):
            rank_into(tmp_path / 'out.jsonl', index, TITLES, 2, ['settings'], len(TITLES))
        yield from TITLES

    rank_into(tmp_path / 'out.jsonl', index, meanwhile(), 2, ['settings'], len(TITLES))
    assert len((tmp_path / 'out.jsonl').read_text().splitlines()) == len(TITLES)


def test_an_output_that_another_process_has_finished_meanwhile_is_not_overwritten(index, tmp_path):
    (tmp_path / 'out.jsonl').write_text('finished')
    with pytest.raises(ValueError, match=r'out\.jsonl: already there'):
        rank_into(tmp_path / 'out.jsonl', index, TITLES, 2, ['settings'], len(TITLES))
    assert (tmp_path / 'out.jsonl').read_text() == 'finished'
    assert [path.name for path in tmp_path.iterdir()] == ['out.jsonl']


def test_another_number_of_queries_than_expected_is_refused(index, tmp_path):
    with pytest.raises(ValueError, match=rf'{len(TITLES)} queries in it, expected 1; remove it'):
        rank_into(tmp_path / 'out.jsonl', index, TITLES, 2, ['settings'], 1)
    assert not (tmp_path / 'out.jsonl').exists()
