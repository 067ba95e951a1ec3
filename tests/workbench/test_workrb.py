"""WorkRB runs our models, we run its models, and both find the same numbers."""

import numpy as np
import pytest

from uwe_jax.ranking import Ranker
from uwe_jax.workbench.evaluate import evaluate
from uwe_jax.workbench.models import find, read_model
from uwe_jax.workbench.tasks import RankingTask

SKILLS = ['SQL', 'bake bread', 'care for patients', 'data engineering', 'drive a bus', 'use spreadsheets']
TASK = RankingTask(
    'titles', ['data engineer', 'baker', 'nurse', 'bus driver'], SKILLS, [[0, 3], [1], [2, 5], [4, 0, 1]]
)


@pytest.fixture(scope='module')
def workrb():
    return pytest.importorskip('workrb', reason='needs the torch extra')


@pytest.fixture(scope='module')
def task(workrb):
    """The same task, as WorkRB knows tasks."""
    from workrb.tasks.abstract.base import DatasetSplit, LabelType, Language
    from workrb.tasks.abstract.ranking_base import RankingDataset, RankingTaskGroup
    from workrb.tasks.abstract.ranking_base import RankingTask as WorkRBTask
    from workrb.types import ModelInputType

    class Titles(WorkRBTask):
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


@pytest.mark.parametrize('pooling', ['tokens', 'mean'])
def test_workrb_measures_our_model_as_we_do(workrb, task, cut_model, tmp_path, pooling):
    from uwe_jax.workrb import UWEModel

    model = UWEModel.from_pretrained(cut_model, pooling, name=f'ours-{pooling}')
    found = workrb.evaluate(
        model, [task], output_folder=str(tmp_path / 'results'), metrics={'Titles': ['map', 'rp@10']}
    )
    [result] = found.task_results.values()
    [numbers] = result.datasetid_results.values()
    ours = evaluate(Ranker.from_pretrained(cut_model, pooling).index(SKILLS), TASK)
    assert 100 * numbers.metrics_dict['map'] == pytest.approx(ours['map'], abs=1e-4)
    assert 100 * numbers.metrics_dict['rp@10'] == pytest.approx(ours['rp@10'], abs=1e-4)


def test_labels_are_classified_by_ranking_them(workrb, cut_model):
    from uwe_jax.workrb import UWEModel

    model = UWEModel.from_pretrained(cut_model)
    scores = model.compute_classification(['baker'], SKILLS, 'job_title')
    np.testing.assert_allclose(scores, Ranker.from_pretrained(cut_model).score(['baker'], SKILLS), atol=1e-6)
    assert model.classification_label_space is None


@pytest.mark.parametrize('name', ['BM25Model', 'TfIdfModel'])
def test_its_lexical_baselines_go_through_our_door(workrb, name):
    source = f'workrb:{name}'
    find(source)
    scorer = read_model(f'baseline={source}', 'float32').load()
    assert name in scorer.fingerprint
    model = getattr(workrb.models, name)()
    # Scores and not metrics: many are 0, and WorkRB has no rule for ties.
    expected = model.compute_rankings(TASK.queries, SKILLS, query_input_type=None, target_input_type=None)
    np.testing.assert_allclose(scorer.index(SKILLS).score(TASK.queries), expected, atol=1e-6)


def test_its_bi_encoder_is_our_mean_pooled_ranker(workrb, base_model):
    scorer = read_model(f'baseline=workrb:BiEncoderModel:{base_model}', 'float32').load()
    expected = Ranker.from_pretrained(base_model, pooling='mean').score(TASK.queries, SKILLS)
    np.testing.assert_allclose(scorer.index(SKILLS).score(TASK.queries), expected, atol=1e-5)


def test_a_model_that_workrb_does_not_have_is_refused(workrb):
    with pytest.raises(
        ValueError, match=r"workrb:GuessModel: WorkRB has no model 'GuessModel', expected one of .*BM25"
    ):
        find('workrb:GuessModel')
