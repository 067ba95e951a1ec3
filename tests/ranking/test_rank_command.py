"""The command line that ranks, and the files that it reads and writes."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from uwe_jax.ranking import Ranker, bulk
from uwe_jax.ranking.bulk import rank_into

SKILLS = ['bake bread', 'SQL', 'care for patients']
TITLES = [f'{title} {number}' for number, title in enumerate(['baker', 'data engineer', 'nurse'] * 3)]


@pytest.fixture
def rank(cut_model, tmp_path):
    (tmp_path / 'skills.csv').write_text('id,label\n' + ''.join(f'{n},{skill}\n' for n, skill in enumerate(SKILLS)))

    def run(*arguments):
        command = [sys.executable, '-m', 'uwe_jax.rank', f'--model={cut_model}']
        command += [f'--targets={tmp_path / "skills.csv"}', '--column=label', *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run


@pytest.fixture(scope='module')
def index(cut_model):
    return Ranker.from_pretrained(cut_model).index(SKILLS)


def test_the_command_prints_a_table_and_keeps_the_index(rank, index, tmp_path):
    first = rank(f'--index={tmp_path / "index"}', '--k=2', 'baker', 'nurse')
    again = rank(f'--index={tmp_path / "index"}', '--k=2', 'baker', 'nurse')
    tables = [
        '\n'.join([query, *(f'  {hit.score:.3f}  {hit.text}' for hit in hits)])
        for query, hits in zip(['baker', 'nurse'], index.rank(['baker', 'nurse'], 2), strict=True)
    ]
    assert first.stdout == again.stdout == '\n' + '\n\n'.join(tables) + '\n'
    assert 'kept the embedded targets' in first.stderr
    assert 'kept the embedded targets' not in again.stderr
    (tmp_path / 'skills.csv').write_text('label\nbake bread\n')
    refused = rank(f'--index={tmp_path / "index"}', 'baker')
    assert refused.returncode == 1
    assert re.search(r'error: \S+index: an index of other targets than \S+skills.csv; remove it', refused.stderr)


def test_the_command_ranks_many_into_a_file(rank, index, tmp_path):
    (tmp_path / 'titles.txt').write_text('\n'.join(TITLES) + '\n\n')
    done = rank(f'--input={tmp_path / "titles.txt"}', f'--output={tmp_path / "out.jsonl"}', '--k=1')
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert [line['query'] for line in lines] == TITLES
    assert [line['targets'][0]['text'] for line in lines] == [hits[0].text for hits in index.rank(TITLES, 1)]
    refused = rank(f'--input={tmp_path / "titles.txt"}', f'--output={tmp_path / "out.jsonl"}')
    assert 'out.jsonl: already there; choose another --output or remove it' in refused.stderr


def test_an_interrupted_run_goes_on_where_it_was(index, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, 'QUERIES_AT_A_TIME', 2)

    def broken():
        yield from TITLES[:5]
        raise KeyboardInterrupt

    rank_into(tmp_path / 'whole.jsonl', index, TITLES, 2, ['settings'], len(TITLES))
    with pytest.raises(KeyboardInterrupt):
        rank_into(tmp_path / 'out.jsonl', index, broken(), 2, ['settings'], len(TITLES))
    assert not (tmp_path / 'out.jsonl').exists()
    [partial] = tmp_path.glob('.out*')
    with open(partial, 'a') as file:
        file.write('{"query": "a line that was being wr')

    ranked = []
    monkeypatch.setattr(
        index, 'rank', lambda queries, k: (ranked.extend(queries), type(index).rank(index, queries, k))[1]
    )
    rank_into(tmp_path / 'out.jsonl', index, TITLES, 2, ['settings'], len(TITLES))
    assert ranked == TITLES[4:]
    assert (tmp_path / 'out.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.jsonl', 'whole.jsonl']


def test_what_an_interrupted_run_with_other_settings_left_is_not_used(index, tmp_path):
    with pytest.raises(ZeroDivisionError):
        rank_into(tmp_path / 'out.jsonl', index, (1 / 0 for _ in TITLES), 2, ['settings'], 1)
    for _ in tmp_path.glob('.out*'):
        _.write_text('{"query": "another"}\n')
    rank_into(tmp_path / 'out.jsonl', index, TITLES[:1], 2, ['other settings'], 1)
    [line] = (tmp_path / 'out.jsonl').read_text().splitlines()
    assert json.loads(line)['query'] == TITLES[0]


def test_a_second_run_with_the_same_output_is_refused_and_so_is_another_number_of_queries(index, tmp_path):
    def meanwhile():
        with pytest.raises(ValueError, match=r'out\.jsonl: another process is at work on it'):
            rank_into(tmp_path / 'out.jsonl', index, TITLES, 2, ['settings'], len(TITLES))
        yield from TITLES

    rank_into(tmp_path / 'out.jsonl', index, meanwhile(), 2, ['settings'], len(TITLES))
    assert len((tmp_path / 'out.jsonl').read_text().splitlines()) == len(TITLES)
    with pytest.raises(ValueError, match=rf'partial: {len(TITLES)} queries in it, expected 1; remove it'):
        rank_into(tmp_path / 'other.jsonl', index, TITLES, 2, ['settings'], 1)
    assert not (tmp_path / 'other.jsonl').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--input=x.txt', 'baker'], 'expected either queries after the flags or --input'),
        (['--input=x.txt'], '--input and --output: expected both or none'),
        (['--index=/dev/null/index', 'baker'], r"\[Errno 20\] Not a directory: '/dev/null/"),
        (['--input=x.txt', '--output=/dev/null/out.jsonl'], r"\[Errno 20\] Not a directory: '/dev/null/"),
    ],
)
def test_flags_that_do_not_go_together_or_cannot_be_written_are_refused_at_once(rank, arguments, message):
    done = rank(*arguments)
    assert done.returncode == 1
    assert re.match(f'error: {message}', done.stderr.strip().splitlines()[-1])
