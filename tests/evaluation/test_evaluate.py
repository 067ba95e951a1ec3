"""Tasks, and measuring a ranker on them."""

import pytest

from uwe_jax.evaluation.evaluate import evaluate_all
from uwe_jax.evaluation.tasks import RankingTask, held_out_tasks
from uwe_jax.ranking import Ranker

SKILLS = ['SQL', 'bake bread', 'care for patients', 'data engineering', 'drive a bus', 'C']
QUERIES = ['data engineer', 'baker', 'nurse', 'a bus driver for night shifts ' * 12]


@pytest.fixture(scope='module')
def ranker(base_model):
    return Ranker.from_pretrained(base_model)


def test_tasks_are_evaluated_in_both_directions(ranker):
    forward = RankingTask('forward', QUERIES, SKILLS, [[0, 3], [1], [2], [4]])
    backward = RankingTask('backward', SKILLS[:5], QUERIES, [[0], [1], [2], [0], [3]])
    results = {task.name: result for task, result in evaluate_all(ranker, [forward, backward])}
    assert results['forward'] == {'queries': 4, 'targets': 6, 'map': 100.0, 'rp@10': 100.0}
    assert results['backward']['targets'] == 4


def test_the_held_out_texts_become_tasks_in_both_directions(small_dataset):
    tasks = {task.name: task for task in held_out_tasks(small_dataset)}
    assert list(tasks) == ['job_to_skill', 'alternative_to_skill', 'skill_to_job', 'skill_to_alternative']
    forward, backward = tasks['job_to_skill'], tasks['skill_to_job']
    pairs = {(q, forward.targets[t]) for q, ts in zip(forward.queries, forward.positives, strict=True) for t in ts}
    mirrored = {
        (backward.targets[t], q) for q, ts in zip(backward.queries, backward.positives, strict=True) for t in ts
    }
    assert pairs == mirrored
