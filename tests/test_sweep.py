"""The sweep: MAP and the entropy of the attention at several temperatures."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, without_weights
from uwe_jax import plots
from uwe_jax.evaluation import evaluate
from uwe_jax.evaluation.tasks import RankingTask, held_out_tasks, sampled
from uwe_jax.interaction import Score, mean_entropy
from uwe_jax.ranking import Ranker
from uwe_jax.ranking import ranker as ranker_module
from uwe_jax.workbench.sweep import TEMPERATURES, read_temperatures, sweep, table

TITLES = ['data engineer', 'baker', 'nurse', 'bus driver', 'night nurse on the surgical ward of a hospital']
SKILLS = [
    'SQL',
    'bake bread',
    'care for patients',
    'build data pipelines',
    'drive a bus',
    'medical emergency procedures',
]
TASKS = [
    RankingTask('job_to_skill', TITLES, SKILLS, [[0, 3], [1], [2, 5], [4], [5, 2]]),
    RankingTask('alternative_to_skill', ['baking', 'nurse patients'], SKILLS, [[1], [2]]),
    RankingTask('skill_to_job', SKILLS, TITLES, [[0], [1], [2, 4], [0], [3], [4]]),
]


@pytest.fixture(scope='module')
def model(cut_model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker_module, 'TOKENS_PER_CALL', 64)  # the encoder's calls are padded to it: these texts are few
        yield Ranker.from_pretrained(cut_model)


@pytest.fixture
def ranker(model, monkeypatch):
    """The model, whose score a test may change."""
    monkeypatch.setattr(model, 'pair_score', model.pair_score)
    return model


@pytest.fixture(scope='module')
def rows(model):
    return list(sweep(model, TASKS))


def of(rows, task, key):
    return [row[key] for row in rows if row['task'] == task.name]


def test_every_task_has_a_row_at_every_temperature_of_the_method(rows):
    assert TEMPERATURES == (0.02, 0.05, 0.1, 0.2, 0.5, 1, 10)
    for task in TASKS:
        assert of(rows, task, 'temperature') == list(TEMPERATURES)


def test_at_the_models_own_temperature_it_is_the_evaluation(rows, ranker):
    for task, result in evaluate.evaluate_all(ranker, TASKS):
        [own] = [row for row in rows if row['task'] == task.name and row['temperature'] == 0.1]
        assert {key: own[key] for key in result} == result


def test_at_another_temperature_it_is_the_evaluation_of_a_model_with_that_one(rows, ranker):
    ranker.pair_score = Score(temperature=1.0)
    for task, result in evaluate.evaluate_all(ranker, TASKS):
        [other] = [row for row in rows if row['task'] == task.name and row['temperature'] == 1.0]
        assert other['map'] == pytest.approx(result['map'], abs=0.01)


def test_the_entropy_rises_with_the_temperature_from_picking_one_token_to_all_alike(rows, ranker):
    for task in TASKS:
        entropy = of(rows, task, 'entropy')
        assert entropy == sorted(entropy)
    lowest, _, highest = sweep(ranker, TASKS[:1], [1e-4, 1e4])
    assert lowest['entropy'] == pytest.approx(0, abs=0.01)
    assert highest['entropy'] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize('score', [Score(), Score(attend='query', special_tokens=False)], ids=str)
def test_the_entropy_is_that_of_all_queries_with_their_first_right_targets(ranker, score, monkeypatch):
    monkeypatch.setattr(evaluate, 'QUERY_BLOCK', 3)  # a last block that is shorter than the others
    ranker.pair_score = score
    task = TASKS[0]
    rows = sweep(ranker, [task], [0.5])
    texts = (task.queries, [task.targets[right[0]] for right in task.positives])
    (q, q_len), (y, y_len) = (some.padded(some.row, 64) for some in map(ranker.embedded, texts))
    for row, temperature in zip(rows, (0.1, 0.5), strict=True):
        at = Score(temperature=temperature, attend=score.attend)  # only tokens that count are in them
        assert row['temperature'] == temperature
        assert row['entropy'] == pytest.approx(float(mean_entropy(q, q_len, y, y_len, at)), abs=1e-4)


def test_texts_are_embedded_once_for_all_temperatures_and_tasks_that_share_them(ranker, monkeypatch):
    embedded = []
    embed = ranker.embedded
    monkeypatch.setattr(ranker, 'embedded', lambda texts, *how: (embedded.extend(texts), embed(texts, *how))[1])
    list(sweep(ranker, TASKS[:2], [0.05, 0.2]))
    assert embedded == [*SKILLS, *TITLES, *TASKS[1].queries]


def test_a_score_that_no_temperature_changes_is_refused(ranker):
    for score in (Score(kind='maxsim'), Score(kind='mean'), Score(target='mean')):
        ranker.pair_score = score
        with pytest.raises(ValueError, match=r'is the same at every temperature, expected a model with kind .soft.'):
            next(sweep(ranker, TASKS))


def test_temperatures_are_numbers_above_0():
    assert read_temperatures(['0.1', ' 1']) == [0.1, 1]
    for words in (['0.1', 'warm'], ['0'], ['-1'], ['nan'], ['inf'], []):
        with pytest.raises(ValueError, match=r'--temperatures: .*, expected numbers above 0, such as 0.05,0.1,0.2'):
            read_temperatures(words)


def test_a_sample_of_a_task_keeps_the_order_of_its_queries_and_all_targets():
    task = RankingTask('t', [str(n) for n in range(50)], ['x', 'y'], [[n % 2] for n in range(50)])
    few = sampled(task, 9, seed=1)
    assert few == sampled(task, 9, seed=1) != sampled(task, 9, seed=2)
    assert [int(query) for query in few.queries] == sorted({int(query) for query in few.queries})
    assert (len(few.queries), few.targets) == (9, task.targets)
    assert few.positives == [[int(query) % 2] for query in few.queries]
    assert sampled(task, 50, seed=1) is task


def test_the_table_has_a_line_for_each_task_and_a_column_for_each_temperature(rows):
    lines = table(rows).splitlines()
    assert lines[0].split() == ['τ_a', '0.02', '0.05', '0.1', '0.2', '0.5', '1', '10']
    assert lines[2].split() == ['job_to_skill', *(f'{value:.2f}' for value in of(rows, TASKS[0], 'map'))]
    assert lines[6].split() == ['job_to_skill', *(f'{value:.2f}' for value in of(rows, TASKS[0], 'entropy'))]


def test_the_drawing_shows_map_its_change_and_the_entropy_of_each_task(rows):
    figure = plots.temperature_sweep(rows, Score())
    for axes, key in zip(figure.axes, ('map', None, 'entropy'), strict=True):
        for line, task in zip(axes.get_lines()[:3], TASKS, strict=True):
            assert list(line.get_xdata()) == list(TEMPERATURES)
            if key:
                assert list(line.get_ydata()) == of(rows, task, key)
            else:
                assert line.get_ydata()[2] == 0  # at the model's own
    assert [text.get_text().split(':')[0] for text in figure.legends[0].get_texts()] == [task.name for task in TASKS]


def command(model, data, output, *flags):
    arguments = [f'--model={model}', f'--data={data}', f'--output={output}', *flags]
    return subprocess.run([sys.executable, '-m', 'uwe_jax.sweep', *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_command_line_prints_a_table_and_writes_numbers_and_a_drawing(
    cut_model, small_dataset, small_dataset_dir, tmp_path
):
    done = command(cut_model, small_dataset_dir, tmp_path / 'sweep.png', '--temperatures=1', '--max_queries=1')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'sweep.png').read_bytes().startswith(b'\x89PNG')
    found = json.loads((tmp_path / 'sweep.json').read_text())
    assert done.stdout == table(found['rows']) + '\n'
    assert (found['data'], found['max_queries'], found['seed']) == (small_dataset.fingerprint, 1, 0)
    assert found['score']['temperature'] == 0.1
    assert [(row['task'], row['temperature'], row['queries']) for row in found['rows']] == [
        (task.name, temperature, 1) for task in held_out_tasks(small_dataset) for temperature in (0.1, 1)
    ]  # the model's own temperature is added
    assert sorted(path.name for path in tmp_path.iterdir()) == ['sweep.json', 'sweep.png']


def test_the_command_line_refuses_before_the_weights_are_read(cut_model, small_dataset_dir, tmp_path):
    maxsim = without_weights(cut_model, tmp_path / 'maxsim', Score(kind='maxsim'))
    done = command(maxsim, small_dataset_dir, tmp_path / 'sweep.png')
    assert done.returncode == 1
    message = "error: score: kind 'maxsim' with target 'tokens' is the same at every temperature"
    assert done.stderr.splitlines()[-1].startswith(message)
    assert 'Traceback' not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['maxsim']
