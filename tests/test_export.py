"""Weights out: what Hugging Face's libraries and the torch scorer make of an export, and importing it back."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest
from flax import nnx

from uwe_jax.export import export
from uwe_jax.interaction import Score
from uwe_jax.models import pretrained
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking import Ranker
from uwe_jax.training.checkpoint import load_params

TEXTS = ['data engineer', '.', 'Köchin', 'データ', 'bake bread and cakes', '🚑 nurse', 'a sentence of many words ' * 20]


@pytest.fixture(scope='module')
def exported(finished, tmp_path_factory):
    output = tmp_path_factory.mktemp('export') / 'model'
    assert export(finished, output) == 24
    return output


@pytest.fixture(scope='module')
def embedded(exported):
    """Our token embeddings of each text, without padding."""
    found = Ranker.from_pretrained(exported).embedded(TEXTS)
    padded, length = found.padded(found.row, 64)
    return [text[:tokens] for text, tokens in zip(padded, length, strict=True)]


def test_importing_an_export_gives_identical_parameters(finished, exported):
    _, like = nnx.split(pretrained.abstract_encoder(exported, dtype='float32'))
    imported, trained = pretrained.load_params(exported, like), load_params(finished)[0]
    assert len(jax.tree.leaves(imported)) == len(jax.tree.leaves(trained))
    for keys, value in jax.tree_util.tree_leaves_with_path(imported):
        other = trained
        for key in keys:
            other = other[str(key.key)]
        np.testing.assert_array_equal(value, other)


def test_sentence_transformers_loads_it_and_its_token_embeddings_are_ours(exported, embedded):
    library = pytest.importorskip('sentence_transformers', reason='needs the torch extra')
    model = library.SentenceTransformer(str(exported))
    assert model.max_seq_length == 64
    theirs = model.encode(TEXTS, output_value='token_embeddings', normalize_embeddings=False)
    for ours, other in zip(embedded, theirs, strict=True):
        np.testing.assert_allclose(other.numpy()[: len(ours)], ours, atol=1e-5)


def test_auto_model_loads_all_of_its_tensors_and_its_embeddings_are_ours(exported, embedded):
    torch = pytest.importorskip('torch', reason='needs the torch extra')
    from transformers import AutoModel

    model, loading = AutoModel.from_pretrained(exported, output_loading_info=True)
    assert not any(loading[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    tokenizer = Tokenizer.from_pretrained(exported)
    for ours, ids in zip(embedded, tokenizer.encode(TEXTS, 64), strict=True):
        with torch.inference_mode():
            other = model.eval()(torch.tensor(ids[None])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(other, ours, atol=1e-5)


SETTINGS = [
    {},
    {'reduce': 'sum'},
    {'attend': 'query'},
    {'special_tokens': False},
    {'kind': 'maxsim'},
    {'kind': 'maxsim', 'attend': 'query', 'reduce': 'sum', 'special_tokens': False},
    {'target': 'mean'},
    {'kind': 'mean', 'special_tokens': False},
]


@pytest.fixture(scope='module')
def scorers(exported):
    pytest.importorskip('torch', reason='needs the torch extra')
    spec = importlib.util.spec_from_file_location('uwe_scorer', exported / 'uwe_scorer.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.UWEScorer(exported), Ranker.from_pretrained(exported)


@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_the_torch_scorer_scores_as_the_ranker_does_under_every_setting(scorers, settings):
    scorer, ranker = scorers
    ranker.pair_score = Score(**settings)
    for name, value in dataclasses.asdict(ranker.pair_score).items():
        setattr(scorer, name, value)
    theirs, ours = scorer.score(TEXTS, TEXTS[:4]).numpy(), ranker.score(TEXTS, TEXTS[:4])
    scale = max(1.0, np.abs(ours).max())  # sums over tokens are larger than means
    np.testing.assert_allclose(theirs / scale, ours / scale, atol=1e-4)


def test_the_settings_and_the_card_say_how_to_score(exported, small_dataset):
    settings = json.loads((exported / 'uwe.json').read_text())
    assert settings['score'] == dataclasses.asdict(Score())
    assert (settings['max_tokens'], settings['steps'], settings['data']) == (64, 24, small_dataset.fingerprint)
    card = (exported / 'README.md').read_text()
    for part in (
        'license: apache-2.0',
        'softmax(R / τ_a)',
        'τ_a = 0.1',
        'not MaxSim',
        'European Commission',
        '| job_to_skill',
    ):
        assert part in card
    assert str(exported.parent.parent) not in card  # no path of the machine that made it


def test_an_output_that_is_there_and_a_folder_that_is_no_workdir_are_refused(exported, finished, tmp_path):
    with pytest.raises(ValueError, match='already there'):
        export(finished, exported)
    with pytest.raises(ValueError, match='not the workdir of a run'):
        export(tmp_path, tmp_path / 'model')
    assert list(tmp_path.iterdir()) == []
