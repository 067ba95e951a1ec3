"""Target spaces in LanceDB: filled, changed, resumed after a kill, and ranked as `TargetIndex` ranks them."""

import contextlib
import dataclasses
import datetime
import pathlib
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import ROOT
from uwe_jax.interaction import Score
from uwe_jax.io.errors import DataError
from uwe_jax.rank import Options as RankOptions
from uwe_jax.rank import rank
from uwe_jax.ranking import lance
from uwe_jax.ranking.lance import LanceIndex
from uwe_jax.update_index import Options, update

pytest.importorskip('lancedb')

SKILLS = ['SQL', 'bake bread', 'care for patients', 'develop data processing applications', "the baker's tools", 'C++']
QUERIES = ['data engineer', 'pastry cook', 'night nurse on a surgical ward']


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'index')


def filled(path, ranker, dtype='float32', texts=SKILLS):
    index = LanceIndex.create(path, ranker, dtype)
    index.put(texts)
    index.optimize()
    return index


def texts_of(index, k=10):
    return {hit.text for hit in index.rank(['data engineer'], k)[0]}


# Ranking


@pytest.mark.parametrize('attend', ['target', 'query', 'both'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-6), ('bfloat16', 4e-3), ('int8', 4e-3)])
def test_it_ranks_as_an_index_in_memory_does(path, ranker, attend, dtype, tolerance):
    ranker = ranker.with_score(Score(attend=attend))
    exact = ranker.index(SKILLS)
    for hits, expected in zip(filled(path, ranker, dtype).rank(QUERIES), exact.rank(QUERIES), strict=True):
        of_text = {hit.text: hit.score for hit in expected}
        assert len(hits) == len(SKILLS)
        np.testing.assert_allclose([hit.score for hit in hits], [of_text[hit.text] for hit in hits], atol=tolerance)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize(
    'score', [Score(kind='mean'), Score(target='mean'), Score(kind='maxsim'), Score(special_tokens=False)]
)
def test_every_score_can_be_stored(path, ranker, score):
    ranker = ranker.with_score(score)
    [hits], [expected] = filled(path, ranker).rank(QUERIES[:1]), ranker.index(SKILLS).rank(QUERIES[:1])
    assert [hit.text for hit in hits] == [hit.text for hit in expected]


def test_k_and_the_shortlist_bound_what_comes_back(path, ranker):
    index = filled(path, ranker)
    best = ranker.index(SKILLS).rank(QUERIES, k=2, shortlist=4)
    assert [[hit.text for hit in hits] for hits in index.rank(QUERIES, k=2, shortlist=4)] == [
        [hit.text for hit in hits] for hits in best
    ]
    assert len(index.rank(QUERIES, k=5, shortlist=3)[0]) == 3
    for wrong in ({'k': 0}, {'shortlist': 0}):
        with pytest.raises(ValueError, match='expected a whole number above 0'):
            index.rank(QUERIES, **wrong)


def test_an_index_without_targets_ranks_nothing(path, ranker):
    assert LanceIndex.create(path, ranker).rank(QUERIES) == [[], [], []]


def test_the_approximate_index_finds_nearly_all(path, ranker, monkeypatch):
    monkeypatch.setattr(lance, 'INDEX_FROM', 500)
    monkeypatch.setattr(lance, 'TARGETS_PER_GRAPH', 400)
    texts = [
        f'{verb} {thing} {number}' for verb in ('bake', 'sell') for thing in ('bread', 'data') for number in range(150)
    ]
    index = filled(path, ranker, texts=texts)
    index.put(['a target that the index does not know yet'])
    assert 'a target that the index does not know yet' in texts_of(index, k=601)
    found = index.rank(QUERIES, shortlist=300)
    expected = ranker.index(texts).rank(QUERIES)
    shared = [
        len({hit.text for hit in one} & {hit.text for hit in two}) for one, two in zip(found, expected, strict=True)
    ]
    assert min(shared) >= 9


# Changing


def test_targets_are_added_replaced_and_deleted_without_embedding_the_rest(path, ranker):
    index = LanceIndex.create(path, ranker)
    assert index.put([]) == 0
    assert index.put(['bake bread', 'SQL'], ['1', "it's 2"]) == 2
    assert index.put(['bake bread', 'SQL', 'C++'], ['1', "it's 2", '3']) == 1
    assert index.put(['bake cakes'], ['1']) == 1
    assert {(hit.id, hit.text) for hit in index.rank(QUERIES[:1])[0]} == {
        ('1', 'bake cakes'),
        ("it's 2", 'SQL'),
        ('3', 'C++'),
    }
    assert index.delete(["it's 2", 'unknown']) == 1
    assert texts_of(index) == {'bake cakes', 'C++'}
    assert len(index) == 2


def test_two_writers_keep_every_id_once(path, ranker):
    LanceIndex.create(path, ranker)
    texts = [f'{skill} {number}' for skill in SKILLS for number in range(50)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: LanceIndex.open(path, ranker).put(texts), range(2)))
    assert sorted(LanceIndex.check(path).search().select(['id']).to_arrow()['id'].to_pylist()) == sorted(texts)


def test_the_approximate_index_does_not_fall_apart(path, ranker, monkeypatch):
    monkeypatch.setattr(lance, 'INDEX_FROM', 500)
    monkeypatch.setattr(lance, 'MOST_PARTS', 3)
    index = filled(path, ranker, texts=[f'target {number}' for number in range(500)])
    for number in range(500, 506):
        index.put([f'target {number}'])
        index.optimize()
        parts = LanceIndex.check(path).index_stats('mean_idx')
        assert parts.num_unindexed_rows == 0
        assert parts.num_indices <= 4


def test_an_index_that_was_removed_and_made_anew_is_another(path, ranker):
    reader = filled(path, ranker, texts=['SQL'])
    before = reader.fingerprint
    shutil.rmtree(path)
    after = filled(path, ranker, texts=['C++'])
    assert after.fingerprint != before
    following = LanceIndex.open(path, ranker)
    shutil.rmtree(path)
    filled(path, ranker, texts=['SQL'])
    following._table.checkout_latest()  # as it does by itself after some seconds
    with pytest.raises(DataError, match='the index was removed and made anew; open it again'):
        following.rank(QUERIES)


def test_an_index_that_does_not_follow_stays_as_it_was(path, ranker, monkeypatch):
    monkeypatch.setattr(lance, 'NEWS_EVERY', lance.datetime.timedelta(0))
    writer = filled(path, ranker, texts=['SQL'])
    reader = LanceIndex.open(path, ranker, follow=False)
    writer.put(['C++'])
    writer.delete(['SQL'])
    writer.optimize()
    assert texts_of(reader) == {'SQL'}


def test_filling_goes_on_where_it_stopped(path, ranker, monkeypatch):
    monkeypatch.setattr(lance, 'TARGETS_AT_A_TIME', 2)
    embed, calls = ranker.embed, []

    def failing(texts, *how):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(texts)
        return embed(texts, *how)

    monkeypatch.setattr(ranker, 'embed', failing)
    with pytest.raises(KeyboardInterrupt):
        LanceIndex.create(path, ranker).put(SKILLS)
    monkeypatch.setattr(ranker, 'embed', embed)
    index = LanceIndex.create(path, ranker)
    assert len(index) == 4
    assert index.put(SKILLS) == 2
    assert texts_of(index) == set(SKILLS)


def test_a_reader_sees_what_another_has_written(path, ranker, monkeypatch):
    monkeypatch.setattr(lance, 'NEWS_EVERY', lance.datetime.timedelta(0))
    writer = filled(path, ranker, texts=['SQL'])
    reader = LanceIndex.open(path, ranker)
    before = reader.fingerprint
    writer.put(['C++'])
    assert texts_of(reader) == {'SQL', 'C++'}
    assert reader.fingerprint != before


def test_targets_are_named_rightly_if_the_index_changes_between_finding_and_naming_them(path, ranker, monkeypatch):
    monkeypatch.setattr(lance, 'NEWS_EVERY', datetime.timedelta(0))
    filled(path, ranker)
    reader, writer = LanceIndex.open(path, ranker), LanceIndex.open(path, ranker)
    changes = iter(SKILLS[:2])

    def score_after_a_change(*arguments):
        if gone := next(changes, None):
            writer.delete([gone])
            writer.put([f'{gone} anew'])
            writer.optimize()
        return score_few(*arguments)

    score_few = lance.score_few
    monkeypatch.setattr(lance, 'score_few', score_after_a_change)
    left = [*SKILLS[2:], *(f'{gone} anew' for gone in SKILLS[:2])]
    [hits], [expected] = reader.rank(QUERIES[:1], k=10), ranker.index(left).rank(QUERIES[:1], k=10)
    assert [(hit.id, hit.text) for hit in hits] == [(hit.text, hit.text) for hit in expected]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_stopped(path, narrow_model, tmp_path):
    texts = [f'{verb} {number}' for verb in ('bake', 'sell', 'weigh') for number in range(10_000)]
    (tmp_path / 'texts.txt').write_text('\n'.join(texts))
    command = [sys.executable, '-m', 'uwe_jax.update_index', f'--index=lance:{path}', f'--model={narrow_model}']
    command += [f'--targets={tmp_path / "texts.txt"}']

    def written():
        with contextlib.suppress(ValueError):
            return LanceIndex.check(path).count_rows()
        return 0

    killed = subprocess.Popen(command, cwd=ROOT)
    while not written():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    before = written()
    assert 0 < before < len(texts)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f'embedded {len(texts) - before} targets, of 30000' in ended.stderr
    assert written() == len(texts)


# Refusals


def test_what_does_not_fit_is_refused(path, ranker, tmp_path):
    index = filled(path, ranker, 'int8', ['SQL'])
    with pytest.raises(ValueError, match="the id '1' comes twice"):
        index.put(['a', 'b'], ['1', '1'])
    with pytest.raises(ValueError, match='2 texts and 1 ids'):
        index.put(['a', 'b'], ['1'])
    with pytest.raises(ValueError, match="the text of '2' is ' ', expected one that is not blank"):
        index.put(['a', ' '], ['1', '2'])
    with pytest.raises(ValueError, match="ids: 'SQL', expected a list of strings"):
        index.delete('SQL')
    assert len(index) == 1
    with pytest.raises(ValueError, match="dtype: 'int4', expected one of"):
        LanceIndex.create(path, ranker, 'int4')
    with pytest.raises(ValueError, match='stored in int8, not in bfloat16'):
        LanceIndex.create(path, ranker, 'bfloat16')
    with pytest.raises(ValueError, match='no index in LanceDB there; `python -m uwe_jax'):
        LanceIndex.open(str(tmp_path / 'none'), ranker)
    assert not (tmp_path / 'none').exists()


def test_an_index_serves_every_score_of_its_vectors_and_no_others(path, ranker):
    filled(path, ranker)
    LanceIndex.open(path, ranker.with_score(Score(attend='both', temperature=0.2)))
    with pytest.raises(ValueError, match=r'an index of the model [0-9a-f]{16}, expected [0-9a-f]{16}'):
        LanceIndex.open(path, ranker.with_score(Score(kind='mean')))


def test_a_table_that_is_something_else_is_refused(path, ranker):
    import lancedb

    lancedb.connect(path).create_table('targets', [{'text': 'SQL'}])
    with pytest.raises(ValueError, match='a LanceDB table, but not an index of targets'):
        LanceIndex.open(path, ranker)


def test_a_damaged_index_is_one_line(path, ranker):
    filled(path, ranker)
    for manifest in pathlib.Path(path).rglob('*.manifest'):
        manifest.write_bytes(b'')
    with pytest.raises(DataError, match=r'index: LanceDB cannot use it \('):
        LanceIndex.open(path, ranker)


def test_without_lancedb_the_extra_is_named(path, ranker, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lancedb', None)
    with pytest.raises(DataError, match=r"needs lancedb: pip install .* '\.\[lance\]'"):
        LanceIndex.create(path, ranker)


# The commands


def test_the_commands_fill_change_and_rank_an_index(path, narrow_model, tmp_path, capsys):
    table = tmp_path / 'skills.csv'
    table.write_text('id,label\n1,SQL\n2,bake bread\n')
    options = Options(index=f'lance:{path}', model=str(narrow_model), column='label', id_column='id')
    update(dataclasses.replace(options, targets=table))
    table.write_text('id,label\n2,bake cakes\n3,C++\n')
    (tmp_path / 'gone.txt').write_text('1\n')
    update(dataclasses.replace(options, targets=table, delete=tmp_path / 'gone.txt'))
    rank(RankOptions(model=str(narrow_model), index=f'lance:{path}', queries=('pastry cook',)))
    lines = capsys.readouterr().out.split('\n')
    assert {line.split('  ')[-1] for line in lines if line.startswith('  ')} == {'bake cakes', 'C++'}


def test_ids_that_are_numbers_can_be_added_and_deleted(path, narrow_model, tmp_path):
    (tmp_path / 'skills.jsonl').write_text('{"id": 1, "text": "SQL"}\n{"id": 2, "text": "C++"}\n')
    (tmp_path / 'gone.jsonl').write_text('{"id": 1}\n')
    options = Options(index=f'lance:{path}', model=str(narrow_model), id_column='id')
    update(dataclasses.replace(options, targets=tmp_path / 'skills.jsonl'))
    update(dataclasses.replace(options, delete=tmp_path / 'gone.jsonl'))
    assert LanceIndex.check(path).search().select(['id']).to_arrow()['id'].to_pylist() == ['2']


def test_what_is_not_there_is_not_deleted_from(path, tmp_path):
    (tmp_path / 'gone.txt').write_text('1\n')
    with pytest.raises(ValueError, match='no index in LanceDB there'):
        update(Options(index=f'lance:{path}', model='none', delete=tmp_path / 'gone.txt'))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'index': 'titles'}, '--index=titles: expected lance:PATH'),
        ({'index': 'lance:'}, 'lance:: expected a local path or gs://BUCKET/NAME, after lance:'),
        ({'index': 'lance:gs://'}, 'lance:gs://: expected a local path or gs://BUCKET/NAME'),
        ({'index': 'lance:s3://bucket/titles'}, 's3://bucket/titles: expected a local path or gs://BUCKET/NAME'),
        ({'targets': None}, 'expected --targets, --delete or both'),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message, path, tmp_path):
    options = Options(index=f'lance:{path}', model='none', targets=tmp_path / 'skills.txt')
    with pytest.raises(ValueError, match=message):
        update(dataclasses.replace(options, **changes))


def test_an_id_with_two_texts_is_refused_with_its_row(path, tmp_path):
    table = tmp_path / 'skills.csv'
    table.write_text('id,text\n1,SQL\n1,SQL\n1,C++\n')
    with pytest.raises(ValueError, match=r"skills.csv, line 4: 'C\+\+' has the id '1', as 'SQL' before"):
        update(Options(index=f'lance:{path}', model='none', targets=table, id_column='id'))


def test_ranking_takes_targets_or_an_index_in_lancedb(tmp_path):
    for options in (
        RankOptions(model='none', queries=('baker',)),
        RankOptions(model='none', queries=('baker',), targets=tmp_path / 'skills.txt', index='lance:titles'),
    ):
        with pytest.raises(ValueError, match='expected either --targets or --index=lance:PATH'):
            rank(options)
