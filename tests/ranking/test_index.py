"""A target space: ranked exactly or by a shortlist, within the memory given, and kept on disk."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwe_jax.interaction import Score
from uwe_jax.ranking import Ranker, TargetIndex
from uwe_jax.ranking import index as index_module
from uwe_jax.ranking.embedded import DTYPES, Embedded
from uwe_jax.ranking.index import best, layouts, score_block

TITLES = ['data engineer', 'baker', 'night nurse on a surgical ward']


@pytest.fixture(scope='module')
def ranker(cut_model):
    return Ranker.from_pretrained(cut_model)


@pytest.fixture(scope='module')
def skills(small_dataset):
    return [node['text'] for node in small_dataset.nodes('skill')]


@pytest.fixture(scope='module')
def index(ranker, skills):
    return ranker.index(skills)


def texts_of(hits):
    return [[hit.text for hit in of_query] for of_query in hits]


def test_ids_name_the_targets(ranker):
    index = ranker.index(['SQL', 'bake bread'], ids=['a', 'b'])
    [hits] = index.rank(['bake bread'], k=1)
    assert [(hit.id, hit.text) for hit in hits] == [('b', 'bake bread')]
    assert hits[0].score == pytest.approx(index.score(['bake bread'])[0, 1])


def test_a_target_space_of_one_and_equal_targets(ranker):
    assert texts_of(ranker.index(['SQL']).rank(TITLES)) == [['SQL']] * 3
    [hits] = ranker.index(['SQL', 'bake bread', 'SQL'], ids='abc').rank(['SQL'])
    assert [hit.id for hit in hits] == ['a', 'c', 'b']
    assert hits[0].score == hits[1].score


@given(st.lists(st.sampled_from([-1.5, 0.0, 0.25, 1.0]), min_size=1), st.integers(1, 12))
def test_the_best_are_the_first_of_a_stable_sort(scores, k):
    scores = np.array(scores, np.float32)
    np.testing.assert_array_equal(best(scores, k), np.argsort(-scores, kind='stable')[:k])


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 40))
def test_blocks_hold_all_texts_in_order_and_no_more_vectors_than_asked_for(lengths, most):
    lengths = np.sort(lengths)
    blocks = list(layouts(lengths, most))
    assert [n for block in blocks for length, texts in block for n in [length] * texts] == lengths.tolist()
    for block in blocks:
        vectors = sum(length * texts for length, texts in block)
        assert vectors <= most or sum(texts for length, texts in block if length) == 1


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 2e-6), ('bfloat16', 2e-5), ('int8', 2e-5)])
def test_little_memory_changes_no_score(ranker, cut_model, skills, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(index_module, 'MOST_QUERIES', 2)
    small = Ranker.from_pretrained(cut_model, memory_mib=1)
    whole = ranker.index(skills, dtype=dtype)
    in_blocks = TargetIndex(small, skills, whole.ids, whole.embedded)
    assert len(whole._blocks) == 1 < len(in_blocks._blocks)
    queries = ranker.embedded(TITLES)
    np.testing.assert_allclose(in_blocks.score(queries), whole.score(queries), atol=tolerance)


@pytest.mark.parametrize('score', [Score(), Score(attend='query'), Score(kind='maxsim')], ids=str)
@pytest.mark.parametrize('dtype', DTYPES)
def test_scoring_takes_no_more_memory_than_asked_for(ranker, score, dtype):
    lengths = np.repeat([4, 6, 8, 20], 1000)
    embedded = Embedded.empty(lengths, 768, dtype)
    index = TargetIndex(ranker, lengths, lengths, embedded)
    for tokens in (8, 64):
        queries = index._queries_at_a_time(tokens)
        assert queries > 1
        for y, layout in index._blocks:
            q, q_len = np.zeros((queries, tokens, 768), np.float32), np.full(queries, tokens)
            compiled = score_block.lower(q, q_len, y, layout, score, None).compile()
            assert compiled.memory_analysis().temp_size_in_bytes <= ranker.memory


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_saved_index_ranks_as_before(ranker, skills, tmp_path, dtype):
    index = ranker.index(skills, ids=[f'id{n}' for n in range(len(skills))], dtype=dtype)
    index.save(tmp_path / 'index')
    loaded = TargetIndex.load(tmp_path / 'index', ranker)
    assert isinstance(loaded.embedded.tokens.base, np.memmap)
    assert loaded.rank(TITLES) == index.rank(TITLES)


def test_vectors_are_held_once(index):
    [(y, _)] = index._blocks
    assert y.tokens.unsafe_buffer_pointer() == index.embedded.tokens.ctypes.data


def test_rounded_vectors_rank_nearly_as_exact_ones(ranker, index, skills):
    exact = index.score(TITLES)
    for dtype, tolerance in (('bfloat16', 0.005), ('int8', 0.01)):
        np.testing.assert_allclose(ranker.index(skills, dtype=dtype).score(TITLES), exact, atol=tolerance)


def test_a_shortlist_holds_the_nearest_means_and_they_are_scored_exactly(ranker, index, skills):
    nearest = np.argsort(-ranker.embedded(TITLES).means() @ index.embedded.means().T)[:, :50]
    scores = index.score(TITLES)
    for hits, row, targets in zip(index.rank(TITLES, k=5, shortlist=50), scores, nearest, strict=True):
        expected = sorted(row[targets].tolist(), reverse=True)[:5]
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=2e-6)
    assert texts_of(index.rank(TITLES, k=5, shortlist=len(skills))) == texts_of(index.rank(TITLES, k=5))
    assert [len(hits) for hits in index.rank(TITLES, k=5, shortlist=2)] == [2, 2, 2]


def test_an_index_of_another_model_is_refused(index, tmp_path, cut_model):
    index.save(tmp_path / 'index')
    with pytest.raises(ValueError, match=r'index: an index of the model \w+, expected \w+; give the model that made'):
        TargetIndex.load(tmp_path / 'index', Ranker.from_pretrained(cut_model, pooling='mean'))


def test_an_index_that_is_not_whole_is_refused(ranker, tmp_path):
    with pytest.raises(ValueError, match='none: no whole index'):
        TargetIndex.load(tmp_path / 'none', ranker)
    index = ranker.index(['SQL', 'bake bread'])
    for name in ('index.json', 'tokens.npy', 'targets.jsonl'):
        path = tmp_path / name
        index.save(path)
        (path / name).write_bytes((path / name).read_bytes()[:-40])
        with pytest.raises(ValueError, match=r'no whole index|targets and .* vectors, expected'):
            TargetIndex.load(path, ranker)
    index.save(tmp_path / 'more')
    described = json.loads((tmp_path / 'more' / 'index.json').read_text()) | {'targets': 3}
    (tmp_path / 'more' / 'index.json').write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r'2 targets and .* expected 3'):
        TargetIndex.load(tmp_path / 'more', ranker)
