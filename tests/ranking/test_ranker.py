"""The ranker: what a user of a trained model sees."""

import doctest
import functools
import itertools
import logging

import jax
import jaxtyping
import numpy as np
import pytest

from tests.conftest import without_weights
from uwe_jax.interaction import Score, late_interaction
from uwe_jax.models import pretrained
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking import Ranker
from uwe_jax.ranking import ranker as ranker_module

SKILLS = ['SQL', 'bake bread', 'care for patients', 'data engineering', 'drive a bus', 'bake bread', 'C']
QUERIES = ['data engineer', 'baker', 'nurse', 'a bus driver for night shifts ' * 12]
SCORES = [
    Score(),
    Score(special_tokens=False),
    Score(kind='maxsim', attend='query', special_tokens=False),
    Score(attend='both'),
    Score(target='mean', reduce='sum', special_tokens=False),
    Score(kind='mean', special_tokens=False),
]


def test_its_example_shows_what_it_does(base_model):
    results = doctest.testmod(ranker_module)
    assert (results.failed, results.attempted) == (0, 4)


@pytest.mark.slow
def test_mean_pooling_is_the_cosine_of_sentence_transformers(base_model):
    library = pytest.importorskip('sentence_transformers', reason='needs the torch extra')
    model = library.SentenceTransformer(str(base_model))
    model.max_seq_length = 64
    expected = model.encode(QUERIES) @ model.encode(SKILLS).T
    scores = Ranker.from_pretrained(base_model, pooling='mean').score(QUERIES, SKILLS)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


reference = jax.jit(functools.partial(late_interaction, form='reference'), static_argnums=4)


@pytest.mark.parametrize('score', SCORES, ids=str)
def test_scores_are_those_of_the_reference(make_ranker, ranker, score):
    (q, q_len), (y, y_len) = (some.padded(some.row, 64) for some in map(ranker.embed, (QUERIES, SKILLS)))
    expected, _ = reference(q, q_len, y, y_len, score)
    np.testing.assert_allclose(make_ranker(score).score(QUERIES, SKILLS), expected, rtol=1e-6, atol=2e-6)


def test_a_score_does_not_depend_on_what_else_is_scored(ranker):
    together = ranker.score(QUERIES, SKILLS)
    assert together.shape == (4, 7)
    np.testing.assert_allclose(together[1:2, :2], ranker.score(QUERIES[1:2], SKILLS[:2]), atol=1e-5)


@pytest.mark.parametrize('score', SCORES, ids=str)
def test_pairs_score_as_among_all(make_ranker, score):
    ranker = make_ranker(score)
    queries, targets = zip(*itertools.product(QUERIES, SKILLS), strict=True)  # more than are scored at a time
    expected = ranker.score(QUERIES, SKILLS).ravel()
    np.testing.assert_allclose(ranker.score_pairs(queries, targets), expected, rtol=1e-6, atol=2e-6)


def test_pairs_have_two_sides(ranker):
    with pytest.raises(ValueError, match='2 queries and 1 targets, expected equal numbers'):
        ranker.score_pairs(['a', 'b'], ['c'])


def test_texts_that_are_too_long_are_cut_and_counted(make_ranker, caplog):
    ranker = make_ranker()
    with caplog.at_level(logging.WARNING, 'uwe_jax'):
        ranker.embed(QUERIES)
        ranker.embed(QUERIES)
    assert ranker.truncated == 2
    assert [record.getMessage() for record in caplog.records] == ['1 of 4 texts have more than 64 tokens and are cut']


@pytest.mark.parametrize('text', ['', ' \n', None, 3, float('nan')])
def test_what_is_not_a_text_is_refused(ranker, monkeypatch, text):
    monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)  # beartype would refuse it first
    with pytest.raises(ValueError, match=r'text 1: .*, expected a string that is not blank'):
        ranker.embed(['SQL', text])


@pytest.mark.parametrize(
    ('texts', 'how', 'message'),
    [
        ([], {}, '0 texts and 0 ids'),
        (SKILLS, {'ids': [1]}, '7 texts and 1 ids'),
        (SKILLS, {'dtype': 'int4'}, "dtype: 'int4', expected one of float32, bfloat16, int8"),
    ],
)
def test_what_cannot_be_indexed_is_refused(ranker, texts, how, message):
    with pytest.raises(ValueError, match=message):
        ranker.index(texts, **how)


def test_an_unknown_pooling_is_refused(narrow_model):
    with pytest.raises(ValueError, match="pooling: 'max', expected tokens or mean"):
        Ranker.from_pretrained(narrow_model, pooling='max')


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json', 'uwe.json'])
@pytest.mark.parametrize('content', [b'', b'{"score"', b'{"score": {"kinds": 1}}', b'\0' * 64])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, narrow_model, name, content):
    model = tmp_path / 'model'
    model.mkdir()
    for path in narrow_model.iterdir():
        (model / path.name).symlink_to(path)
    (model / name).unlink()
    (model / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'{name}: '):
        Ranker.from_pretrained(model)


def test_a_score_can_be_refused_before_the_weights_are_read(tmp_path, narrow_model):
    def refuse(score):
        raise ValueError(f'not {score.kind}')

    model = without_weights(narrow_model, tmp_path / 'model', Score())
    with pytest.raises(ValueError, match='not soft'):
        Ranker.from_pretrained(model, check=refuse)


def test_another_score_shares_the_weights_and_has_a_fingerprint_of_its_own(ranker, make_ranker):
    score = Score(attend='both')
    other = ranker.with_score(score)
    assert ranker.with_score(ranker.pair_score) is ranker
    assert other.fingerprint == make_ranker(score).fingerprint != ranker.fingerprint
    np.testing.assert_array_equal(other.score(QUERIES, SKILLS), make_ranker(score).score(QUERIES, SKILLS))


def test_a_model_whose_skills_attend_has_to_be_told_where_they_are(make_ranker):
    ranker = make_ranker(Score(attend='from_skill'))
    for ask in (lambda: ranker.index(SKILLS), lambda: ranker.attention(QUERIES[0], SKILLS[0])):
        with pytest.raises(
            ValueError, match="expected attend='query' if the targets are skills, attend='target' if th"
        ):
            ask()


@pytest.mark.parametrize('attend', ['query', 'target', 'both'])
def test_who_attends_can_be_said_when_a_model_is_loaded(narrow_model, make_ranker, attend):
    ranker = Ranker.from_pretrained(narrow_model, attend=attend)
    assert ranker.fingerprint == make_ranker(Score(attend=attend)).fingerprint


def test_the_fingerprint_is_the_same_for_the_same_model(ranker, narrow_model):
    assert Ranker.from_pretrained(narrow_model).fingerprint == ranker.fingerprint


def test_the_fingerprint_tells_models_and_settings_apart(ranker, make_ranker, narrow_model):
    encoder = pretrained.load_encoder(narrow_model, dtype='float32')
    encoder.embeddings_norm.scale[...] *= 2
    others = [
        Ranker(encoder, Tokenizer.from_pretrained(narrow_model), Score()),
        Ranker.from_pretrained(narrow_model, dtype='bfloat16'),
        Ranker.from_pretrained(narrow_model, pooling='mean'),
        make_ranker(Score(temperature=0.2)),
    ]
    assert len({one.fingerprint for one in [ranker, *others]}) == 5
