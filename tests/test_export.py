"""Weights out: what Hugging Face's libraries and the torch scorer make of an export, and importing it back."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from configs.uwe import get_config
from tests.conftest import ROOT, small_config
from uwe_jax.data.graph import read_manifest
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.export import Options, export
from uwe_jax.interaction import Score
from uwe_jax.models import pretrained
from uwe_jax.models.model_card import model_card
from uwe_jax.models.mpnet import MPNet, MPNetConfig
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking import Ranker
from uwe_jax.training.checkpoint import Checkpoints
from uwe_jax.training.workdir import claimed
from uwe_jax.workbench import benchmark
from uwe_jax.workbench.models import Model

TEXTS = ['data engineer', '.', 'Köchin', 'データ', 'bake bread and cakes', '🚑 nurse', 'a sentence of many words ' * 20]


@pytest.fixture(scope='module')
def params(narrow_model):
    """Parameters that differ from the base model's, of an encoder cut to one layer."""
    _, like = nnx.split(pretrained.abstract_encoder(narrow_model, dtype='float32', layers=1))
    params = pretrained.load_params(narrow_model, like)
    params['layers'][0]['q']['kernel'] += 0.01
    return params


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, params, small_dataset, narrow_model):
    """The workdir of a run that ended after four steps, whose dataset is gone."""
    workdir = tmp_path_factory.mktemp('run')
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(4, {'params': params}, {})
    with claimed(workdir, small_config('/gone', narrow_model), small_dataset.manifest):
        pass
    result = {'step': 4, 'task': 'job_to_skill', 'queries': 2, 'targets': 3, 'map': 12.34, 'rp@10': 5.6}
    (workdir / 'evaluation.jsonl').write_text(json.dumps(result) + '\n')
    return workdir


@pytest.fixture(scope='module')
def exported(workdir, tmp_path_factory):
    output = tmp_path_factory.mktemp('export') / 'model'
    export(Options(workdir, output))
    return output


def test_an_export_in_a_bucket_is_ranked_with_as_one_on_this_machine(workdir, bucket, exported):
    path = f'gs://{bucket}/model'
    export(Options(workdir, path))
    ours = Ranker.from_pretrained(path)
    assert ours.fingerprint == Ranker.from_pretrained(exported).fingerprint
    with pytest.raises(ValueError, match='model: already there'):
        export(Options(workdir, path))


def test_the_exported_score_may_attend_to_another_side_than_the_loss_did(workdir, tmp_path, exported):
    export(Options(workdir, tmp_path / 'model', attend='query'))
    score = Ranker.from_pretrained(workdir).pair_score
    assert Ranker.from_pretrained(tmp_path / 'model').pair_score == dataclasses.replace(score, attend='query')
    card = (tmp_path / 'model' / 'README.md').read_text()
    assert 'The score is not symmetric' in card
    assert f'The loss used score.attend={score.attend}.' in card
    assert 'The loss used' not in (exported / 'README.md').read_text()


def test_half_an_export_is_no_model(workdir, bucket, bucket_server):
    bucket_server.fault('POST .*model/config.json', 403)
    path = f'gs://{bucket}/model'
    with pytest.raises(ValueError, match='no permission'):
        export(Options(workdir, path))
    with pytest.raises(ValueError, match=f'{path}: config.json missing; expected a Hugging Face model directory'):
        Ranker.from_pretrained(path)
    export(Options(workdir, path))
    assert Ranker.from_pretrained(path)


@pytest.fixture(scope='module')
def embedded(exported):
    """Our token embeddings of each text, without padding."""
    found = Ranker.from_pretrained(exported).embed(TEXTS)
    padded, length = found.padded(found.row, 64)
    return [text[:tokens] for text, tokens in zip(padded, length, strict=True)]


def test_importing_an_export_gives_identical_parameters(params, exported):
    _, like = nnx.split(pretrained.abstract_encoder(exported, dtype='float32'))
    jax.tree.map(np.testing.assert_array_equal, pretrained.load_params(exported, like), params)


def test_a_workdir_holds_the_model_of_its_export_with_more_than_ten_layers_too(narrow_model, small_dataset, tmp_path):
    base, workdir = tmp_path / 'base', tmp_path / 'run'
    shutil.copytree(narrow_model, base)
    config = json.loads((base / 'config.json').read_text()) | {'num_hidden_layers': 12}
    (base / 'config.json').write_text(json.dumps(config))
    encoder = MPNet(MPNetConfig.read(base / 'config.json'), dtype='float32', rngs=nnx.Rngs(0))
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(4, {'params': nnx.to_pure_dict(nnx.state(encoder, nnx.Param))}, {})
    with claimed(workdir, small_config('/gone', base, **{'model.layers': None}), small_dataset.manifest):
        pass
    export(Options(workdir, tmp_path / 'model'))
    assert Ranker.from_pretrained(workdir).fingerprint == Ranker.from_pretrained(tmp_path / 'model').fingerprint


@pytest.mark.slow  # its import takes ten seconds
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
    {'attend': 'query', 'reduce': 'sum'},
    {'attend': 'both'},
    {'special_tokens': False},
    {'kind': 'maxsim'},
    {'kind': 'maxsim', 'attend': 'both', 'reduce': 'sum', 'special_tokens': False},
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


def test_the_torch_scorer_of_a_model_whose_skills_attend_has_to_be_told_where_they_are(tmp_path):
    module = pytest.importorskip('uwe_jax.models.torch_scorer', reason='needs the torch extra')
    settings = {'max_tokens': 64, 'score': dataclasses.asdict(Score(attend='from_skill'))}
    (tmp_path / 'uwe.json').write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="attend: 'from_skill', expected query if the targets are skills"):
        module.UWEScorer(tmp_path)
    with pytest.raises(ValueError, match="attend: 'left', expected query"):
        module.UWEScorer(tmp_path, attend='left')


def test_the_settings_define_the_score_and_say_what_the_model_was_trained_on(exported, small_dataset):
    settings = json.loads((exported / 'uwe.json').read_text())
    assert settings['score'] == get_config().score.to_dict()
    assert (settings['max_tokens'], settings['steps'], settings['data']) == (64, 4, small_dataset.fingerprint)


def test_the_card_says_how_to_score_and_how_well_the_model_does(exported):
    card = (exported / 'README.md').read_text()
    for part in ('license: apache-2.0', 'softmax(R / τ_a)', 'τ_a = 0.1', 'not MaxSim', 'European Commission'):
        assert part in card
    assert '- ESCO' in card
    assert '| job_to_skill | 2 | 3 | 4 | 12.34 | 5.60 |' in card


@pytest.mark.parametrize(
    ('score', 'parts'),
    [
        (Score(), ['over the tokens of the target; ', 'not symmetric: the query comes first', "('DIRECTORY')"]),
        (Score(attend='both'), ['over the tokens of the target, or of the query', 'the mean of the two directions']),
        (Score(temperature=0.2), ['; divided by the number of attending tokens. τ_a = 0.2. `<s>`']),
        (
            Score(kind='maxsim', attend='both'),
            [
                'of the target, or of the query, and the sum over those of the other text; ',
                'symmetric. ColBERT-style',
                'attending tokens. `<s>`',
            ],
        ),
        (Score(attend='from_skill'), ["attend='query'` if the targets are skills", "('DIRECTORY', attend='query')"]),
        (
            Score(kind='mean', attend='from_skill'),
            ['cos(q̄, ȳ), the cosine of the mean-pooled texts. `<s>`', 'The score is symmetric', "('DIRECTORY')"],
        ),
    ],
    ids=str,
)
def test_the_card_says_which_side_attends(score, parts, small_dataset_dir, narrow_model):
    config = dataclasses.replace(small_config(small_dataset_dir, narrow_model), score=score)
    card = model_card(dataclasses.asdict(config), read_manifest(small_dataset_dir), 4, [])
    assert [part for part in parts if part not in card] == []


class Same:
    """A scorer to which all targets are alike."""

    fingerprint = 'same'

    def index(self, targets):
        self.targets = len(targets)
        return self

    def score(self, queries):
        return np.zeros((len(queries), self.targets))


def measured(workdir, directory, steps=4):
    """What the workbench writes of a model with this workdir after so many steps."""
    task = RankingTask('house', ['drives', 'bakes'], ['drive', 'bake'], [[0], [1]])
    content = benchmark.run([Model('trained', str(workdir), '', Same)], [task], directory)
    results = directory / 'results.json'
    content |= {'training': [{'source': str(workdir), 'steps': steps, 'curves': {}}]}
    results.write_text(json.dumps({'command': 'python -m uwe_jax.workbench --tasks=house', **content}))
    return results


def test_the_card_has_the_workbenchs_results_and_the_command_that_made_them(workdir, tmp_path):
    export(Options(workdir, tmp_path / 'model', measured(workdir, tmp_path)))
    card = (tmp_path / 'model' / 'README.md').read_text()
    assert '    python -m uwe_jax.workbench --tasks=house\n' in card
    assert '| house | 2 | 2 | 75.0 [' in card
    assert next(line for line in card.splitlines() if line.startswith('#### ')).startswith('#### MAP, %')


def test_results_of_another_model_are_refused_before_the_checkpoint_is_read(workdir, tmp_path):
    results = measured(tmp_path / 'other', tmp_path)
    without = shutil.copytree(workdir, tmp_path / 'run', ignore=shutil.ignore_patterns('checkpoints'))
    with pytest.raises(ValueError, match=r'results\.json: no model is .*, expected one of .*other'):
        export(Options(without, tmp_path / 'model', results))
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize('content', ['', '[]', '{"results": []}', '{"results": [{"model": {}}], "training": []}'])
def test_a_file_that_the_workbench_did_not_write_is_refused_in_one_line(workdir, tmp_path, content):
    (tmp_path / 'results.json').write_text(content)
    with pytest.raises(ValueError, match=r'results\.json: no results of python -m uwe_jax\.workbench'):
        export(Options(workdir, tmp_path / 'model', tmp_path / 'results.json'))


def test_results_after_another_step_are_refused_before_anything_is_written(workdir, tmp_path):
    results = measured(workdir, tmp_path, steps=3)
    with pytest.raises(ValueError, match=r'results\.json: of .* after step 3, expected step 4; measure it again'):
        export(Options(workdir, tmp_path / 'model', results))
    assert not (tmp_path / 'model').exists()


def test_the_card_leaves_out_what_was_measured_after_the_exported_step(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / 'run')
    [line] = (copy / 'evaluation.jsonl').read_text().splitlines()
    (copy / 'evaluation.jsonl').write_text(f'{line}\n{line.replace("12.34", "98.76").replace(": 4,", ": 8,")}\n')
    export(Options(copy, tmp_path / 'model'))
    card = (tmp_path / 'model' / 'README.md').read_text()
    assert '12.34' in card
    assert '98.76' not in card


def test_an_export_that_lost_its_score_is_refused_and_not_ranked_with_another(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / 'model')
    (copy / 'uwe.json').unlink()
    with pytest.raises(ValueError, match=r'uwe\.json: missing, but it says how this model scores'):
        Ranker.from_pretrained(copy)


def test_an_export_names_no_path_of_the_machine_that_made_it(exported, narrow_model):
    for file in ('README.md', 'uwe.json', 'config.json'):
        text = (exported / file).read_text()
        assert not [path for path in (str(narrow_model.parent), str(exported.parent), '/gone') if path in text]


def test_an_output_that_exists_is_refused(exported, workdir):
    with pytest.raises(ValueError, match='already there'):
        export(Options(workdir, exported))


def test_a_folder_that_is_not_a_workdir_is_refused(tmp_path):
    with pytest.raises(ValueError, match='not the workdir of a run'):
        export(Options(tmp_path, tmp_path / 'model'))
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_its_own_lines_only(workdir, tmp_path):
    command = [sys.executable, '-m', 'uwe_jax.export', f'--workdir={workdir}', f'--output={tmp_path / "model"}']
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True)
    weights, exported = run.stderr.splitlines()
    assert (run.returncode, run.stdout) == (0, '')
    assert 'Weights: local directory' in weights
    assert exported.endswith(f'exported the model after step 4 to {tmp_path / "model"}')


def test_a_workdir_ranks_as_its_export_does(workdir, exported):
    of_workdir, of_export = map(Ranker.from_pretrained, (workdir, exported))
    assert of_workdir.fingerprint == of_export.fingerprint
    np.testing.assert_allclose(of_workdir.score(TEXTS, TEXTS), of_export.score(TEXTS, TEXTS), atol=1e-6)
