"""A target space: ranked exactly or by a shortlist, within the memory allowed, and kept on disk."""

import itertools
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwe_jax.distributed.mesh import make_mesh
from uwe_jax.interaction import Score
from uwe_jax.ranking import TargetIndex
from uwe_jax.ranking.embedded import DTYPES, Embedded
from uwe_jax.ranking.index import best
from uwe_jax.ranking.scoring import BlockScorer, layouts, score_block

TITLES = ['data engineer', 'baker', 'night nurse on a surgical ward']


@pytest.fixture(scope='module')
def skills(small_dataset):
    return [node['text'] for node in small_dataset.nodes('skill')][:220]


@pytest.fixture(scope='module')
def index(ranker, skills):
    return ranker.index(skills)


def texts_of(hits):
    return [[hit.text for hit in of_query] for of_query in hits]


def test_the_best_targets_come_first(index):
    [hits] = index.rank(['baker'], k=10)
    scores = index.score(['baker'])[0]
    assert [hit.score for hit in hits] == sorted(scores.tolist(), reverse=True)[:10]
    assert [scores[hit.id] for hit in hits] == [hit.score for hit in hits]


def test_ids_name_the_targets(ranker):
    index = ranker.index(['SQL', 'bake bread'], ids=['a', 'b'])
    [hits] = index.rank(['bake bread'], k=1)
    assert [(hit.id, hit.text) for hit in hits] == [('b', 'bake bread')]
    assert hits[0].score == pytest.approx(index.score(['bake bread'])[0, 1])


def test_a_target_space_may_hold_a_single_text(ranker):
    assert texts_of(ranker.index(['SQL']).rank(TITLES)) == [['SQL']] * 3


def test_equal_targets_keep_their_order(ranker):
    [hits] = ranker.index(['SQL', 'bake bread', 'SQL'], ids='abc').rank(['SQL'])
    assert [hit.id for hit in hits] == ['a', 'c', 'b']
    assert hits[0].score == hits[1].score


@pytest.mark.parametrize('unfit', [{'k': 0}, {'shortlist': 0}])
def test_nothing_can_be_asked_for(index, unfit):
    with pytest.raises(ValueError, match=': 0, expected a whole number above 0'):
        index.rank(TITLES, **unfit)


@given(st.lists(st.sampled_from([-1.5, 0.0, 0.25, 1.0]), min_size=1), st.integers(1, 12))
def test_the_best_are_the_first_of_a_stable_sort(scores, k):
    scores = np.array(scores, np.float32)
    np.testing.assert_array_equal(best(scores, k), np.argsort(-scores, kind='stable')[:k])


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 40))
def test_blocks_hold_all_texts_in_order(lengths, most):
    lengths = np.sort(lengths)
    blocks = list(layouts(lengths, most))
    assert [n for block in blocks for length, texts in block for n in [length] * texts] == lengths.tolist()


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 40))
def test_blocks_hold_no_more_vectors_than_allowed_unless_a_text_has_more(lengths, most):
    for block in layouts(np.sort(lengths), most):
        vectors = sum(length * texts for length, texts in block)
        assert vectors <= most or sum(texts for length, texts in block if length) == 1


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 2e-6), ('bfloat16', 2e-5), ('int8', 2e-5)])
@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_scores_do_not_depend_on_the_memory(ranker, dtype, tolerance, backend, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)  # which chooses what is padded to what
    texts = [f'{skill} {n}' for n in range(200) for skill in ('bake', 'care for patients')]  # of few lengths
    targets = ranker.embed(texts, 'target', dtype)
    queries = ranker.embed([*(f'baker {n}' for n in range(20)), 'baker ' * 20])
    whole, in_blocks = (
        TargetIndex(ranker, texts, range(len(texts)), targets, memory_mib).score(queries) for memory_mib in (512, 1)
    )
    np.testing.assert_allclose(in_blocks, whole, atol=tolerance)  # two blocks of targets, two of queries


@pytest.mark.parametrize(
    ('score', 'dtype'),
    [*((Score(attend='both'), dtype) for dtype in DTYPES), (Score(kind='maxsim'), 'int8')],
    ids=str,
)
def test_scoring_takes_no_more_memory_than_allowed(score, dtype):
    targets = Embedded.empty(np.repeat([4, 6, 8, 20], 1000), 768, dtype)
    for tokens, memory_mib in ((64, 16), (8, 128)):
        scorer = BlockScorer(targets, score, None, memory_mib)
        queries = scorer.queries_at_a_time(tokens)
        y, layout = scorer.blocks[0]
        q, q_len = np.zeros((queries, tokens, 768), np.float32), np.full(queries, tokens)
        compiled = score_block.lower(q, q_len, y, layout, score, None).compile()
        assert compiled.memory_analysis().temp_size_in_bytes <= memory_mib << 20


def test_little_memory_cuts_the_targets_and_much_memory_takes_more_queries():
    targets = Embedded.empty(np.repeat([4, 6, 8, 20], 1000), 768, 'float32')
    little, much = (BlockScorer(targets, Score(), None, memory_mib) for memory_mib in (1, 1024))
    assert len(much.blocks) == 1 < len(little.blocks)
    assert little.queries_at_a_time(64) == 1 < much.queries_at_a_time(64)


def test_vectors_are_held_once(index):
    [(y, _)] = BlockScorer(index.embedded, Score(), None, memory_mib=512).blocks
    assert y.tokens.unsafe_buffer_pointer() == index.embedded.tokens.ctypes.data


def test_rounded_vectors_score_nearly_as_exact_ones(ranker, index, skills):
    exact = index.score(TITLES)
    for dtype, tolerance in (('bfloat16', 0.005), ('int8', 0.01)):
        np.testing.assert_allclose(ranker.index(skills, dtype=dtype).score(TITLES), exact, atol=tolerance)


def test_a_shortlist_holds_the_nearest_means_and_scores_them_exactly(ranker, index):
    nearest = np.argsort(-ranker.embed(TITLES).means() @ index.embedded.means().T)[:, :50]
    scores = index.score(TITLES)
    for hits, row, targets in zip(index.rank(TITLES, k=5, shortlist=50), scores, nearest, strict=True):
        expected = sorted(row[targets].tolist(), reverse=True)[:5]
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=2e-6)


def test_a_shortlist_of_all_targets_ranks_exactly(index, skills):
    assert texts_of(index.rank(TITLES, k=5, shortlist=len(skills))) == texts_of(index.rank(TITLES, k=5))


def test_a_shortlist_limits_the_hits(index):
    assert [len(hits) for hits in index.rank(TITLES, k=5, shortlist=2)] == [2, 2, 2]


def test_queries_may_be_embedded_before(ranker, index):
    embedded = ranker.embed(TITLES)
    assert index.rank(embedded, k=5) == index.rank(TITLES, k=5)
    assert index.rank(embedded, k=5, shortlist=20) == index.rank(TITLES, k=5, shortlist=20)


def test_queries_padded_as_on_an_accelerator_get_the_same_scores(index, monkeypatch):
    scores = index.score(TITLES)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    np.testing.assert_allclose(index.score(TITLES), scores, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_after_the_warm_up_no_ranking_compiles(ranker, backend, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)  # which chooses what is padded to what
    index = ranker.index(['SQL', 'bake bread', 'care for patients'])
    for _ in itertools.chain(ranker.warm_up(), index.warm_up()):
        pass
    compiled = []

    def listen(event, *_, **__):
        if 'compile' in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 1234.5)(0)
        assert compiled  # which it would be of any other program
        compiled.clear()
        for words in (1, 3, 9, 60):
            for texts in (1, 2, 5, 30, 64):
                index.rank([f'{n} ' + 'baker ' * words for n in range(texts)])
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


def test_scores_do_not_depend_on_the_number_of_devices(make_ranker, index, skills):
    sharded = make_ranker(Score(), make_mesh(devices=jax.devices()[:4]))
    np.testing.assert_allclose(sharded.score(TITLES, skills), index.score(TITLES), atol=2e-6)


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_saved_index_ranks_as_before(ranker, skills, tmp_path, dtype):
    index = ranker.index(skills, ids=[f'id{n}' for n in range(len(skills))], dtype=dtype)
    index.save(tmp_path / 'index')
    loaded = TargetIndex.load(tmp_path / 'index', ranker)
    assert isinstance(loaded.embedded.tokens.base, np.memmap)
    assert loaded.rank(TITLES) == index.rank(TITLES)


def test_an_index_of_another_model_is_refused(index, tmp_path, make_ranker):
    index.save(tmp_path / 'index')
    with pytest.raises(ValueError, match=r'index: an index of the model \w+, expected \w+; use the model that made'):
        TargetIndex.load(tmp_path / 'index', make_ranker(Score(kind='mean')))


def test_an_index_that_does_not_exist_is_refused(ranker, tmp_path):
    with pytest.raises(ValueError, match='none: not a whole index'):
        TargetIndex.load(tmp_path / 'none', ranker)


@pytest.mark.parametrize('name', ['index.json', 'tokens.npy', 'targets.jsonl'])
def test_an_index_that_was_cut_short_is_refused(ranker, index, tmp_path, name):
    index.save(tmp_path / 'index')
    path = tmp_path / 'index' / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r'not a whole index|targets and .* vectors, expected'):
        TargetIndex.load(tmp_path / 'index', ranker)


def test_an_index_that_lacks_a_target_is_refused(ranker, tmp_path):
    ranker.index(['SQL', 'bake bread']).save(tmp_path / 'index')
    settings = tmp_path / 'index' / 'index.json'
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {'targets': 3}))
    with pytest.raises(ValueError, match=r'2 targets and .* expected 3'):
        TargetIndex.load(tmp_path / 'index', ranker)
