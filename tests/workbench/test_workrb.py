"""WorkRB measures our models, we measure its models, and the numbers agree."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from uwe_jax.evaluation import metrics
from uwe_jax.evaluation.evaluate import evaluate
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.interaction import Score
from uwe_jax.ranking import Ranker
from uwe_jax.workbench import benchmark
from uwe_jax.workbench.models import read_models

pytestmark = pytest.mark.slow  # WorkRB imports PyTorch

SKILLS = [
    'SQL',
    'bake bread',
    'care for patients',
    'data engineering',
    'drive a bus',
    'use spreadsheets',
    'repair engines',
    'teach languages',
    'design data models',
    'manage a kitchen',
    'sell bread',
    'plan routes',
    'keep patient records',
    'negotiate contracts',
]
TASK = RankingTask(
    'titles',
    ['data engineer', 'bread baker', 'nurse for patients', 'bus driver'],
    SKILLS,
    [[0, 3, 8], [1, 10, 9], [2, 5, 12, 13], [4, 0, 11]],
)


@pytest.fixture(scope='module', autouse=True)
def workrb():
    return pytest.importorskip('workrb', reason='needs the torch extra')


@pytest.fixture(scope='module')
def titles(workrb):
    """The same task, as WorkRB knows tasks."""
    from workrb.tasks.abstract.base import DatasetSplit, LabelType, Language
    from workrb.tasks.abstract.ranking_base import RankingDataset, RankingTaskGroup
    from workrb.types import ModelInputType

    class Titles(workrb.tasks.RankingTask):
        name = 'Titles'
        description = 'Titles to skills'
        supported_query_languages = supported_target_languages = (Language.EN,)
        label_type = LabelType.MULTI_LABEL
        query_input_type, target_input_type = ModelInputType.JOB_TITLE, ModelInputType.SKILL_NAME
        task_group = RankingTaskGroup.JOB2SKILL
        citation = ''

        def load_dataset(self, dataset_id, split):
            positives = [list(right) for right in TASK.positives]
            return RankingDataset(list(TASK.queries), positives, list(TASK.targets), dataset_id=dataset_id)

    return Titles(split=DatasetSplit.TEST, languages=['en'])


@pytest.fixture
def uwe_model(workrb):
    from uwe_jax.workrb import UWEModel

    return UWEModel


def assert_equal(ours, theirs):
    """Ours in per cent, theirs as fractions; equal within 1e-6, and no metric is 0 or 1."""
    for name in ('map', 'rp@10'):
        assert 0 < theirs[name] < 1
        assert ours[name] / 100 == pytest.approx(theirs[name], abs=1e-6)


@pytest.mark.parametrize('pooling', ['tokens', 'mean'])
def test_workrb_measures_our_model_as_we_do(workrb, uwe_model, titles, cut_model, tmp_path, pooling):
    model = uwe_model.from_pretrained(cut_model, pooling, name=f'ours-{pooling}')
    outcome = workrb.evaluate(model, [titles], output_folder=str(tmp_path), metrics={'Titles': ['map', 'rp@10']})
    [result] = outcome.task_results.values()
    [numbers] = result.datasetid_results.values()
    assert_equal(evaluate(Ranker.from_pretrained(cut_model, pooling).index(SKILLS), TASK), numbers.metrics_dict)


@pytest.mark.parametrize(('skills', 'attend'), [('target', 'query'), ('query', 'target')])
def test_a_model_whose_skills_attend_is_told_by_the_kinds_of_text_where_they_are(
    workrb, uwe_model, make_ranker, skills, attend
):
    title, skill = workrb.types.ModelInputType.JOB_TITLE, workrb.types.ModelInputType.SKILL_NAME
    kinds = (title, skill) if skills == 'target' else (skill, title)
    scores = uwe_model(make_ranker(Score(attend='from_skill'))).compute_rankings(TASK.queries, SKILLS, *kinds)
    np.testing.assert_allclose(scores, make_ranker(Score(attend=attend)).score(TASK.queries, SKILLS), atol=1e-6)


def test_labels_are_classified_by_ranking_them(workrb, uwe_model, cut_model):
    model = uwe_model.from_pretrained(cut_model)
    scores = model.compute_classification(['baker'], SKILLS, workrb.types.ModelInputType.JOB_TITLE)
    np.testing.assert_allclose(scores, Ranker.from_pretrained(cut_model).score(['baker'], SKILLS), atol=1e-6)
    assert model.classification_label_space is None


def test_we_measure_its_lexical_baselines(workrb, tmp_path):
    models = read_models([f'{name}=workrb:{name}' for name in ('BM25Model', 'TfIdfModel')], 'float32')
    for model, result in zip(models, benchmark.run(models, [TASK], tmp_path)['results'], strict=True):
        model.fetch()
        assert model.name in result['model']['fingerprint']
        scores = getattr(workrb.models, model.name)().compute_rankings(TASK.queries, TASK.targets, None, None)
        rank, _ = metrics.ranks(scores.numpy(), TASK.positives)
        assert result['metrics']['map']['mean'] == pytest.approx(metrics.average_precision(rank).mean())


def test_its_bi_encoder_is_our_mean_pooled_ranker(workrb, titles, cut_model):
    index = read_models([f'baseline=workrb:BiEncoderModel:{cut_model}'], 'float32')[0].load().index(SKILLS)
    expected = Ranker.from_pretrained(cut_model, pooling='mean').score(TASK.queries, SKILLS)
    np.testing.assert_allclose(index.score(TASK.queries), expected, atol=1e-5)
    assert_equal(evaluate(index, TASK), titles.evaluate(workrb.models.BiEncoderModel(str(cut_model)), ['map', 'rp@10']))


@pytest.mark.parametrize(
    'files', [['model.safetensors'], [f'model-0000{part}-of-00002.safetensors' for part in (1, 2)]]
)
def test_a_bi_encoder_with_other_weights_is_another_model(cut_model, tmp_path, files):
    directory = tmp_path / 'model'
    shutil.copytree(cut_model, directory)
    tensors = safetensors.numpy.load_file(directory / 'model.safetensors')
    (directory / 'model.safetensors').unlink()
    weight_map = {name: files[place % len(files)] for place, name in enumerate(sorted(tensors))}
    (directory / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))

    def fingerprint():
        for file in files:
            part = {name: tensors[name] for name, place in weight_map.items() if place == file}
            safetensors.numpy.save_file(part, directory / file, metadata={'format': 'pt'})
        return read_models([f'baseline=workrb:BiEncoderModel:{directory}'], 'float32')[0].load().fingerprint

    before, again = fingerprint(), fingerprint()
    tensors['embeddings.word_embeddings.weight'][0, 0] += 1
    assert before == again != fingerprint()


@pytest.mark.parametrize('name', ['GuessModel', 'ModelInterface', 'JobBERTModel', 'bi_encoder'])
def test_a_class_that_cannot_rank_arbitrary_texts_is_refused(name):
    with pytest.raises(ValueError, match=rf"workrb:{name}: found '{name}', expected one of BM25Model, BiEncoderModel"):
        read_models([f'baseline=workrb:{name}'], 'float32')[0].fetch()
