"""Tasks, and measuring a ranker on them."""

import dataclasses

import pytest

from uwe_jax.evaluation.evaluate import embedded, evaluate, evaluate_all
from uwe_jax.evaluation.tasks import RankingTask, held_out_tasks, sampled
from uwe_jax.interaction import Score

SKILLS = ['SQL', 'bake bread', 'care for patients', 'data engineering', 'drive a bus', 'C']
TITLES = ['data engineer', 'baker', 'nurse', 'a bus driver for night shifts ' * 12, 'SQL']
TASKS = [
    RankingTask('job_to_skill', TITLES, SKILLS, [[0, 3], [1], [2], [4], [0]]),
    RankingTask('alternative_to_skill', ['baking', 'nurse'], SKILLS, [[1], [2]]),
    RankingTask('skill_to_job', SKILLS[:5], TITLES, [[0], [1], [2], [0], [3]]),
]
DISTINCT = {*SKILLS, *TITLES, 'baking'}


def noting(ranker):
    """The ranker, and the list in which it notes from now on what it embeds: (side, text)."""
    embed, noted = ranker.embed, []

    def embed_and_note(texts, side):
        noted.extend((side, text) for text in texts)
        return embed(texts, side)

    ranker.embed = embed_and_note
    return ranker, noted


@pytest.mark.parametrize('score', [Score(), Score(target='mean')], ids=str)
def test_a_result_is_that_of_the_task_evaluated_by_itself(make_ranker, score):
    ranker = make_ranker(score)
    for task, result in evaluate_all(ranker, TASKS):
        assert result == evaluate(ranker.index(task.targets), task)


def test_an_interrupted_evaluation_continues_to_the_same_results(ranker):
    assert list(evaluate_all(ranker, TASKS, done=1)) == list(evaluate_all(ranker, TASKS))[1:]


def test_an_evaluation_that_is_complete_embeds_nothing(make_ranker):
    ranker, noted = noting(make_ranker())
    assert list(evaluate_all(ranker, TASKS, done=len(TASKS))) == []
    assert noted == []


def test_a_result_is_in_per_cent_and_says_how_much_was_ranked(ranker):
    task = RankingTask('copies', SKILLS, SKILLS, [[n] for n in range(len(SKILLS))])
    assert list(evaluate_all(ranker, [task])) == [(task, {'queries': 6, 'targets': 6, 'map': 100.0, 'rp@10': 100.0})]


def test_each_distinct_text_of_all_tasks_is_embedded_once(make_ranker):
    ranker, noted = noting(make_ranker())
    list(evaluate_all(ranker, TASKS))
    assert sorted(text for _, text in noted) == sorted(DISTINCT)


def test_neighbouring_tasks_with_one_target_space_share_its_index(ranker):
    forward, alternative, backward = (index for _, index, _ in embedded(ranker, TASKS))
    assert forward is alternative
    assert list(backward.texts) == TITLES


def test_a_score_from_the_skill_looks_from_the_side_that_the_task_names(make_ranker):
    tasks = [TASKS[0], dataclasses.replace(TASKS[2], skills='query')]
    attending = {'target': 'query', 'query': 'target'}  # the skills' tokens attend to the other side's
    for task, result in evaluate_all(make_ranker(Score(attend='from_skill')), tasks):
        facing = make_ranker(Score(attend=attending[task.skills]))
        assert result == evaluate(facing.index(task.targets), task)


def test_the_held_out_tasks_know_on_which_side_the_skills_are(small_dataset):
    skills = {task.name: task.skills for task in held_out_tasks(small_dataset)}
    assert skills == {
        'job_to_skill': 'target',
        'alternative_to_skill': 'target',
        'skill_to_job': 'query',
        'skill_to_alternative': 'query',
    }


def test_an_evaluation_reports_progress_after_the_embedding_and_around_each_task(make_ranker):
    ranker, noted = noting(make_ranker())
    beats = []
    list(evaluate_all(ranker, TASKS, beat=lambda: beats.append(len(noted))))
    assert beats == [len(DISTINCT)] * 2 * len(TASKS)


def test_each_distinct_text_is_embedded_once_per_side_where_the_sides_need_different_vectors(make_ranker):
    ranker, noted = noting(make_ranker(Score(target='mean')))
    list(evaluate_all(ranker, TASKS))
    queries = {('query', text) for task in TASKS for text in task.queries}
    targets = {('target', text) for task in TASKS for text in task.targets}
    assert sorted(noted) == sorted(queries | targets)


def test_the_held_out_texts_become_tasks_in_both_directions(small_dataset):
    tasks = {task.name: task for task in held_out_tasks(small_dataset)}
    assert list(tasks) == ['job_to_skill', 'alternative_to_skill', 'skill_to_job', 'skill_to_alternative']
    forward, backward = tasks['job_to_skill'], tasks['skill_to_job']
    pairs = {(q, forward.targets[t]) for q, ts in zip(forward.queries, forward.positives, strict=True) for t in ts}
    mirrored = {
        (backward.targets[t], q) for q, ts in zip(backward.queries, backward.positives, strict=True) for t in ts
    }
    assert pairs == mirrored


@pytest.fixture(scope='module')
def fifty():
    return RankingTask('t', [str(n) for n in range(50)], ['x', 'y'], [[n % 2] for n in range(50)])


def test_a_sample_of_a_task_keeps_all_targets_and_the_order_of_its_queries(fifty):
    few = sampled(fifty, 9, seed=1)
    assert [int(query) for query in few.queries] == sorted({int(query) for query in few.queries})
    assert (len(few.queries), few.targets) == (9, fifty.targets)
    assert few.positives == [[int(query) % 2] for query in few.queries]


def test_a_sample_of_a_task_depends_on_the_seed_alone(fifty):
    assert sampled(fifty, 9, seed=1) == sampled(fifty, 9, seed=1) != sampled(fifty, 9, seed=2)


def test_a_sample_as_large_as_the_task_is_the_task(fifty):
    assert sampled(fifty, 50, seed=1) is fifty
