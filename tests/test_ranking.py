"""The ranker: what a user of a trained model sees."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from uwe_jax.ranking import Ranker
from uwe_jax.workbench.evaluate import compare, evaluate_all, table
from uwe_jax.workbench.tasks import RankingTask, held_out_tasks

SKILLS = ['SQL', 'bake bread', 'care for patients', 'data engineering', 'drive a bus', '']
QUERIES = ['data engineer', 'baker', 'nurse', 'a bus driver for night shifts ' * 12]


@pytest.fixture(scope='module')
def ranker(base_model):
    return Ranker.from_pretrained(base_model)


def test_the_best_skills_of_a_title_come_first(ranker):
    index = ranker.index(SKILLS)
    best = [hits[0].text for hits in index.rank(QUERIES, k=2)]
    assert best == ['data engineering', 'bake bread', 'care for patients', 'drive a bus']
    [hits] = index.rank(QUERIES[:1], k=10)
    assert len(hits) == len(SKILLS)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_ids_name_the_targets(ranker):
    [[hit]] = ranker.index(SKILLS, ids=[f'id{n}' for n in range(6)]).rank(['baker'], k=1)
    assert (hit.id, hit.text) == ('id1', 'bake bread')


def test_a_score_does_not_depend_on_what_else_is_scored(ranker):
    together = ranker.score(QUERIES, SKILLS)
    assert together.shape == (4, 6)
    np.testing.assert_allclose(together[1:2, :2], ranker.score(QUERIES[1:2], SKILLS[:2]), atol=1e-5)


def test_mean_pooling_is_the_cosine_of_sentence_transformers(base_model):
    library = pytest.importorskip('sentence_transformers', reason='needs the torch extra')
    model = library.SentenceTransformer(str(base_model))
    model.max_seq_length = 64
    expected = model.encode(QUERIES) @ model.encode(SKILLS).T
    found = Ranker.from_pretrained(base_model, pooling='mean').score(QUERIES, SKILLS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cannot_be_ranked_is_refused(ranker, base_model):
    with pytest.raises(ValueError, match='0 texts and 0 ids'):
        ranker.index([])
    with pytest.raises(ValueError, match="pooling: 'max', expected tokens or mean"):
        Ranker.from_pretrained(base_model, pooling='max')
    with pytest.raises(ValueError, match="task t: query 'b' has no right target"):
        RankingTask('t', ['a', 'b'], SKILLS, [[0], []])
    with pytest.raises(ValueError, match='outside the 6 targets'):
        RankingTask('t', ['a'], SKILLS, [[6]])


def test_tasks_are_evaluated_in_both_directions_and_results_are_compared(ranker):
    forward = RankingTask('forward', QUERIES, SKILLS, [[0, 3], [1], [2], [4]])
    backward = RankingTask('backward', SKILLS[:5], QUERIES, [[0], [1], [2], [0], [3]])
    results = {task.name: result for task, result in evaluate_all(ranker, [forward, backward])}
    assert results['forward'] == {'queries': 4, 'targets': 6, 'map': 100.0, 'rp@10': 100.0}
    rows = [
        {'step': 0, 'task': 'forward', **results['forward'], 'map': 50.0},
        {'step': 9, 'task': 'forward', **results['forward']},
        {'step': 0, 'task': 'backward', **results['backward'], 'map': 60.0},
        {'step': 9, 'task': 'backward', **results['backward'], 'map': 55.0},
    ]
    assert 'forward: MAP rose, 50.00 at step 0, 100.00 at step 9' in compare(rows)
    assert 'backward: MAP DID NOT RISE, 60.00 at step 0, 55.00 at step 9' in compare(rows)
    assert '50.00 / 100.00' in table(rows)


def test_the_held_out_texts_become_tasks_in_both_directions(small_dataset):
    tasks = {task.name: task for task in held_out_tasks(small_dataset)}
    assert list(tasks) == ['job_to_skill', 'alternative_to_skill', 'skill_to_job', 'skill_to_alternative']
    forward, backward = tasks['job_to_skill'], tasks['skill_to_job']
    pairs = {(q, forward.targets[t]) for q, ts in zip(forward.queries, forward.positives, strict=True) for t in ts}
    mirrored = {
        (backward.targets[t], q) for q, ts in zip(backward.queries, backward.positives, strict=True) for t in ts
    }
    assert pairs == mirrored


@pytest.mark.parametrize(
    ('name', 'content', 'flags'),
    [
        ('skills.txt', 'bake bread\n\nSQL\n', []),
        ('skills.csv', 'id,label\n1,bake bread\n2,SQL\n', ['--column=label']),
        ('skills.jsonl', '{"text": "bake bread"}\n{"text": "SQL"}\n', []),
    ],
)
def test_the_command_line_ranks_targets_of_a_file(tmp_path, base_model, name, content, flags):
    (tmp_path / name).write_text(content)
    command = [sys.executable, '-m', 'uwe_jax.rank', f'--model={base_model}', f'--targets={tmp_path / name}', *flags]
    done = subprocess.run([*command, 'baker'], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = done.stdout.split('baker\n')[1].splitlines()
    assert first.endswith('bake bread')
    assert second.endswith('SQL')


def test_the_command_line_refuses_a_file_without_the_column(tmp_path, base_model):
    (tmp_path / 'skills.csv').write_text('id,label\n1,bake bread\n')
    command = [sys.executable, '-m', 'uwe_jax.rank', f'--model={base_model}', f'--targets={tmp_path / "skills.csv"}']
    done = subprocess.run([*command, 'baker'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "skills.csv, row 1: no text in 'text'; name the right one with --column" in done.stderr
