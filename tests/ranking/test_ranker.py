"""The ranker: what a user of a trained model sees."""

import logging

import jax
import numpy as np
import pytest

from tests.conftest import without_weights
from uwe_jax.distributed.mesh import make_mesh
from uwe_jax.export import Options, export
from uwe_jax.interaction import Score, late_interaction
from uwe_jax.models import pretrained
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking import Ranker
from uwe_jax.ranking.embedded import Embedded

SKILLS = ['SQL', 'bake bread', 'care for patients', 'data engineering', 'drive a bus', 'bake bread', 'C']
QUERIES = ['data engineer', 'baker', 'nurse', 'a bus driver for night shifts ' * 12]


@pytest.fixture(scope='module')
def ranker(base_model):
    return Ranker.from_pretrained(base_model)


@pytest.fixture(scope='module')
def cut_ranker(cut_model):
    return Ranker.from_pretrained(cut_model)


def with_score(ranker, score):
    """The same model with another score."""
    other = Ranker.__new__(Ranker)
    other.__dict__ |= {name: value for name, value in ranker.__dict__.items() if name != 'fingerprint'}
    other.pair_score = score
    return other


def test_the_best_skills_of_a_title_come_first(ranker):
    index = ranker.index(SKILLS)
    best = [hits[0].text for hits in index.rank(QUERIES, k=2)]
    assert best == ['data engineering', 'bake bread', 'care for patients', 'drive a bus']
    [hits] = index.rank(QUERIES[:1], k=10)
    assert len(hits) == len(SKILLS)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_score_does_not_depend_on_what_else_is_scored(ranker):
    together = ranker.score(QUERIES, SKILLS)
    assert together.shape == (4, 7)
    np.testing.assert_allclose(together[1:2, :2], ranker.score(QUERIES[1:2], SKILLS[:2]), atol=1e-5)


def test_mean_pooling_is_the_cosine_of_sentence_transformers(base_model):
    library = pytest.importorskip('sentence_transformers', reason='needs the torch extra')
    model = library.SentenceTransformer(str(base_model))
    model.max_seq_length = 64
    expected = model.encode(QUERIES) @ model.encode(SKILLS).T
    found = Ranker.from_pretrained(base_model, pooling='mean').score(QUERIES, SKILLS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    'score',
    [
        Score(),
        Score(special_tokens=False),
        Score(kind='maxsim', attend='query', special_tokens=False),
        Score(target='mean', reduce='sum', special_tokens=False),
        Score(kind='mean', special_tokens=False),
    ],
    ids=str,
)
def test_scores_are_those_of_the_reference(cut_ranker, score):
    everything = with_score(cut_ranker, Score()).embedded([*QUERIES, *SKILLS])
    texts, length = everything.padded(everything.row, 64)
    n = len(QUERIES)
    expected, _ = late_interaction(texts[:n], length[:n], texts[n:], length[n:], score, form='reference')
    np.testing.assert_allclose(with_score(cut_ranker, score).score(QUERIES, SKILLS), expected, rtol=1e-6, atol=2e-6)


def test_a_query_that_is_too_long_is_cut_and_said_once(cut_ranker, caplog):
    ranker = with_score(cut_ranker, Score())
    ranker.truncated = 0
    with caplog.at_level(logging.WARNING, 'uwe_jax'):
        index = ranker.index(SKILLS)
        index.score(QUERIES)
        index.score(QUERIES)
    assert ranker.truncated == 2
    assert [record.getMessage() for record in caplog.records] == ['1 of 4 texts have more than 64 tokens and are cut']


@pytest.mark.parametrize('text', ['', ' \n', None, 3, float('nan')])
def test_what_is_no_text_is_refused(cut_ranker, text):
    with pytest.raises(ValueError, match=r'text 1: .*, expected a string that is not blank'):
        cut_ranker.index(['SQL', text])
    with pytest.raises(ValueError, match=r'text 1: .*, expected a string that is not blank'):
        cut_ranker.index(SKILLS).rank(['baker', text])


def test_what_cannot_be_ranked_is_refused(cut_ranker, cut_model):
    with pytest.raises(ValueError, match='0 texts and 0 ids'):
        cut_ranker.index([])
    with pytest.raises(ValueError, match='7 texts and 1 ids'):
        cut_ranker.index(SKILLS, ids=[1])
    with pytest.raises(ValueError, match="dtype: 'int4', expected one of float32, bfloat16, int8"):
        cut_ranker.index(SKILLS, dtype='int4')
    with pytest.raises(ValueError, match="pooling: 'max', expected tokens or mean"):
        Ranker.from_pretrained(cut_model, pooling='max')
    with pytest.raises(ValueError, match='k: 0, expected a whole number above 0'):
        cut_ranker.index(SKILLS).rank(QUERIES, k=0)


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json', 'uwe.json'])
@pytest.mark.parametrize('content', [b'', b'{"score"', b'{"score": {"kinds": 1}}', b'\0' * 64])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, cut_model, name, content):
    model = tmp_path / 'model'
    model.mkdir()
    for path in cut_model.iterdir():
        (model / path.name).symlink_to(path)
    (model / name).unlink()
    (model / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'{name}: '):
        Ranker.from_pretrained(model)


def test_a_score_can_be_refused_before_the_weights_are_read(tmp_path, cut_model):
    def refuse(score):
        raise ValueError(f'not {score.kind}')

    model = without_weights(cut_model, tmp_path / 'model', Score())
    with pytest.raises(ValueError, match='not soft'):
        Ranker.from_pretrained(model, check=refuse)


def test_a_workdir_ranks_as_its_export_does(tmp_path, finished):
    export(Options(finished, tmp_path / 'model'))
    of_workdir, of_export = (Ranker.from_pretrained(source) for source in (finished, tmp_path / 'model'))
    assert of_workdir.fingerprint == of_export.fingerprint
    np.testing.assert_allclose(of_workdir.score(QUERIES, SKILLS), of_export.score(QUERIES, SKILLS), atol=1e-6)


def test_the_fingerprint_tells_models_and_settings_apart(cut_ranker, cut_model, ranker):
    same = [cut_ranker, Ranker.from_pretrained(cut_model)]
    others = [
        ranker,
        Ranker.from_pretrained(cut_model, dtype='bfloat16'),
        Ranker.from_pretrained(cut_model, pooling='mean'),
        with_score(cut_ranker, Score(temperature=0.2)),
    ]
    assert len({one.fingerprint for one in same}) == 1
    assert len({one.fingerprint for one in [*others, cut_ranker]}) == 5


@pytest.mark.parametrize('devices', [1, 2, 4, 8])
def test_scores_do_not_depend_on_the_number_of_devices(cut_ranker, cut_model, devices):
    device_mesh = make_mesh(devices=jax.devices()[:devices])
    encoder = pretrained.load_encoder(cut_model, dtype='float32')
    sharded = Ranker(encoder, Tokenizer.from_pretrained(cut_model), Score(), device_mesh)
    np.testing.assert_allclose(sharded.score(QUERIES, SKILLS), cut_ranker.score(QUERIES, SKILLS), atol=2e-6)


def test_embedded_texts_come_back_padded():
    rng = np.random.default_rng(0)
    length = np.array([3, 0, 2, 3], np.int32)
    given = rng.standard_normal((4, 3, 8)).astype(np.float32)
    for dtype, tolerance in (('float32', 0), ('bfloat16', 0.02), ('int8', 0.02)):
        embedded = Embedded.empty(length, 8, dtype)
        assert embedded.place.tolist() == [1, 2, 0, 3]
        embedded.fill(embedded.row[[2, 0]], given[[2, 0]])
        embedded.fill(embedded.row[[1, 3]], given[[1, 3]])
        found, found_length = embedded.padded(embedded.row, 4)
        np.testing.assert_array_equal(found_length, length)
        expected = np.where((np.arange(4) < length[:, None])[..., None], np.pad(given, [(0, 0), (0, 1), (0, 0)]), 0)
        np.testing.assert_allclose(found, expected, atol=tolerance)
        means = embedded.means()
        np.testing.assert_allclose(np.linalg.norm(means, axis=1), [1, 0, 1, 1], atol=1e-6)
        mean = given[0].mean(axis=0)
        np.testing.assert_allclose(means[0], mean / np.linalg.norm(mean), atol=tolerance + 1e-6)
