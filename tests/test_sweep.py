"""The sweep: MAP and the entropy of the attention at several temperatures."""

import json

import jax
import pytest

from tests.conftest import without_weights
from uwe_jax import plots
from uwe_jax.evaluation import evaluate
from uwe_jax.evaluation.evaluate import evaluate_all
from uwe_jax.evaluation.tasks import RankingTask, held_out_tasks
from uwe_jax.interaction import Score, mean_entropy
from uwe_jax.io.console import parse
from uwe_jax.sweep import TEMPERATURES, Options, measure_and_draw, read_temperatures, sweep, table

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
def rows(ranker):
    return list(sweep(ranker, TASKS))


def of(rows, task, key):
    return [row[key] for row in rows if row['task'] == task.name]


def test_every_task_has_a_row_at_every_temperature_of_the_method(rows):
    assert TEMPERATURES == (0.02, 0.05, 0.1, 0.2, 0.5, 1, 10)
    for task in TASKS:
        assert of(rows, task, 'temperature') == list(TEMPERATURES)


def test_at_the_models_own_temperature_it_is_the_evaluation(rows, ranker):
    for task, result in evaluate_all(ranker, TASKS):
        [same] = [row for row in rows if row['task'] == task.name and row['temperature'] == 0.1]
        assert {key: same[key] for key in result} == result


def test_at_another_temperature_it_is_the_evaluation_of_a_model_with_that_one(rows, make_ranker):
    for task, result in evaluate_all(make_ranker(Score(temperature=1.0)), TASKS):
        [other] = [row for row in rows if row['task'] == task.name and row['temperature'] == 1.0]
        assert other['map'] == pytest.approx(result['map'], abs=0.01)


def test_the_entropy_rises_with_the_temperature(rows):
    for task in TASKS:
        assert of(rows, task, 'entropy') == sorted(of(rows, task, 'entropy'))


def test_the_entropy_goes_from_picking_one_token_to_weighing_all_alike(ranker):
    lowest, _, highest = sweep(ranker, TASKS[:1], [1e-4, 1e4])
    assert lowest['entropy'] == pytest.approx(0, abs=0.01)
    assert highest['entropy'] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize('score', [Score(), Score(attend='query', special_tokens=False), Score(attend='both')], ids=str)
def test_the_entropy_is_that_of_all_queries_with_their_first_right_targets(make_ranker, score, monkeypatch):
    monkeypatch.setattr(evaluate, 'QUERY_BLOCK', 3)  # a last block that is shorter than the others
    ranker = make_ranker(score)
    task = TASKS[0]
    rows = sweep(ranker, [task], [0.5])
    texts = (task.queries, [task.targets[right[0]] for right in task.positives])
    (q, q_len), (y, y_len) = (some.padded(some.row, 64) for some in map(ranker.embed, texts))
    entropy = jax.jit(mean_entropy, static_argnums=4)
    for row, temperature in zip(rows, (0.1, 0.5), strict=True):
        at = Score(temperature=temperature, attend=score.attend)  # only tokens that count are in them
        assert row['temperature'] == temperature
        assert row['entropy'] == pytest.approx(float(entropy(q, q_len, y, y_len, at)), abs=1e-4)


@pytest.mark.parametrize('score', [Score(kind='maxsim'), Score(kind='mean'), Score(target='mean')], ids=str)
def test_a_score_that_no_temperature_changes_is_refused(make_ranker, score):
    with pytest.raises(ValueError, match=r'is the same at every temperature, expected a model with kind .soft.'):
        next(sweep(make_ranker(score), TASKS))


def test_temperatures_are_separated_by_commas():
    assert read_temperatures('0.1, 1') == [0.1, 1]


@pytest.mark.parametrize('words', ['0.1,warm', '0', '-1', 'nan', 'inf', ''])
def test_temperatures_that_are_not_numbers_above_0_are_refused(words):
    with pytest.raises(ValueError, match=r'--temperatures: .*, expected numbers above 0, such as 0.05,0.1,0.2'):
        read_temperatures(words)


@pytest.mark.parametrize('unfit', [{'max_queries': 0}, {'seed': -1}])
def test_options_out_of_range_are_refused(tmp_path, unfit):
    with pytest.raises(ValueError, match='expected a whole number'):
        measure_and_draw(Options('model', tmp_path, tmp_path / 'sweep.png', **unfit))


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


def test_the_command_prints_a_table_and_writes_numbers_and_a_drawing(
    narrow_model, small_dataset, small_dataset_dir, tmp_path, capsys
):
    arguments = [f'--model={narrow_model}', f'--data={small_dataset_dir}', f'--output={tmp_path / "sweep.png"}']
    measure_and_draw(parse(Options, [*arguments, '--temperatures=1', '--max_queries=1']))
    assert (tmp_path / 'sweep.png').read_bytes().startswith(b'\x89PNG')
    numbers = json.loads((tmp_path / 'sweep.json').read_text())
    assert capsys.readouterr().out == table(numbers['rows']) + '\n'
    assert (numbers['data'], numbers['max_queries'], numbers['seed']) == (small_dataset.fingerprint, 1, 0)
    assert numbers['score']['temperature'] == 0.1
    assert [(row['task'], row['temperature'], row['queries']) for row in numbers['rows']] == [
        (task.name, temperature, 1) for task in held_out_tasks(small_dataset) for temperature in (0.1, 1)
    ]  # the model's own temperature is added
    assert sorted(path.name for path in tmp_path.iterdir()) == ['sweep.json', 'sweep.png']


def test_a_model_that_no_temperature_changes_is_refused_before_its_weights_are_read(
    narrow_model, small_dataset_dir, tmp_path
):
    maxsim = without_weights(narrow_model, tmp_path / 'maxsim', Score(kind='maxsim'))
    with pytest.raises(ValueError, match="score: kind 'maxsim' with target 'tokens' is the same at every temperature"):
        measure_and_draw(Options(str(maxsim), small_dataset_dir, tmp_path / 'sweep.png'))
    assert [path.name for path in tmp_path.iterdir()] == ['maxsim']
