"""The workbench: measuring a model on a task, keeping results, and comparing models."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.conftest import ROOT
from uwe_jax.evaluation import metrics
from uwe_jax.evaluation.bootstrap import intervals
from uwe_jax.evaluation.evaluate import QUERY_BLOCK
from uwe_jax.evaluation.metrics import METRICS
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.interaction import Score
from uwe_jax.io import console
from uwe_jax.io.claims import claim
from uwe_jax.io.errors import DataError
from uwe_jax.workbench import benchmark, markdown
from uwe_jax.workbench.__main__ import Options
from uwe_jax.workbench.__main__ import measure as measure_command
from uwe_jax.workbench.histogram import BINS, Histogram
from uwe_jax.workbench.measurement import MISSES, measure
from uwe_jax.workbench.models import Model, SharedRanker, read_models, rescored
from uwe_jax.workbench.registry import HUB, PLACES, TASKS
from uwe_jax.workbench.strata import Strata, training_titles

SKILLS = ['SQL', 'bake bread', 'care for patients', 'build data pipelines', 'drive a bus']
TITLES = ['data engineer', 'bread baker', 'patient care nurse', 'bus driver', 'poet']
FORWARD = RankingTask('titles', TITLES, SKILLS, [[0, 3], [1], [2], [4], [2]])
SAME_SPACE = RankingTask('names', ['baking bread', 'bus driving'], list(SKILLS), [[1], [4]])
BACKWARD = RankingTask('skills', SKILLS, TITLES, [[0], [1], [2, 4], [0], [3]])


class Letters:
    """A simple but real scorer: the share of a query's groups of letters that the target has.

    Args:
      size: of a group.
      change: gets the queries and their scores, and makes what is returned instead.
    """

    def __init__(self, size=3, change=lambda queries, scores: scores):
        self.fingerprint = f'letters-{size}'
        self.size, self.change = size, change
        self.spaces, self.asked = [], []

    def groups(self, text):
        return {text[n : n + self.size] for n in range(max(len(text) - self.size + 1, 1))}

    def index(self, targets):
        self.spaces.append(list(targets))
        self.targets = [self.groups(text) for text in targets]
        return self

    def score(self, queries):
        self.asked.append(len(queries))
        groups = [self.groups(query) for query in queries]
        return self.change(queries, np.array([[len(q & y) / len(q) for y in self.targets] for q in groups]))


def model(name, size=3, **settings):
    scorer = Letters(size, **settings)
    return Model(name, 'letters', '', lambda: scorer), scorer


# Measuring a task


def test_a_result_has_metrics_and_examples():
    scorer = Letters()
    content, of_queries = measure(scorer, scorer.index(SKILLS), FORWARD, {}, seed=0)
    assert list(content['metrics']) == list(of_queries) == list(METRICS)
    assert of_queries['map'].tolist() == pytest.approx([(1 / 1 + 2 / 2) / 2, 1, 1, 1, 1 / 3])
    assert content['metrics']['map']['mean'] == pytest.approx(np.mean(of_queries['map']))
    assert content['misses'] == [
        {
            'query': 'poet',
            'positives': [{'text': 'care for patients', 'rank': 3, 'score': 0.0}],
            'best': [{'text': text, 'score': 0.0} for text in SKILLS],
            'average_precision': pytest.approx(1 / 3),
        }
    ]
    assert sum(content['histogram']['positive']) == 6
    assert sum(content['histogram']['negative']) == 5 * 5 - 6
    assert (content['strata'], content['attention']) == (None, [])
    json.dumps(content, allow_nan=False)


def test_many_queries_are_scored_in_blocks_which_changes_nothing():
    queries = [f'{title} {n}' for n in range(QUERY_BLOCK // 2) for title in TITLES]
    task = RankingTask('many', queries, SKILLS, FORWARD.positives * (QUERY_BLOCK // 2))
    scorer = Letters()
    content, of_queries = measure(
        scorer, scorer.index(SKILLS), task, {'sql': 3, 'bake bread': 30, 'drive a bus': 0}, seed=0
    )
    assert scorer.asked == [QUERY_BLOCK, QUERY_BLOCK, QUERY_BLOCK // 2, MISSES]  # the last to show the misses
    rank, _ = metrics.ranks(scorer.score(queries), task.positives)
    for name, expected in metrics.measure(rank).items():
        np.testing.assert_array_equal(of_queries[name], expected)
    assert sum(stratum['queries'] for stratum in content['strata']) == len(queries) + QUERY_BLOCK // 2
    assert sum(content['histogram']['negative']) == 5 * len(queries) - 6 * QUERY_BLOCK // 2


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (lambda s: s[:, :4], r'task titles: scores of shape \(5, 4\), expected \(5, 5\)'),
        (lambda s: np.where(s == 0, np.nan, s), "task titles: the score of 'data engineer' and 'SQL' is nan, expected"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(bad, message):
    scorer = Letters(change=lambda queries, scores: bad(scores))
    with pytest.raises(ValueError, match=message):
        measure(scorer, scorer.index(SKILLS), FORWARD, {}, seed=0)


@given(st.lists(arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e4, 1e4, width=32)), min_size=1))
def test_a_histogram_counts_exactly_whatever_the_blocks(blocks):
    histogram = Histogram()
    for block in blocks:
        histogram.add(block[::2], block)
    result = histogram.summary()
    assert 1 <= len(result['positive']) <= BINS
    scores, positive = (
        np.concatenate(parts).astype(np.float64) for parts in (blocks, [block[::2] for block in blocks])
    )
    for values, counts in (
        (positive, result['positive']),
        (scores, np.add(result['positive'], result['negative'])),
    ):
        place = np.searchsorted(result['edges'], values, side='right') - 1
        np.testing.assert_array_equal(np.bincount(place, minlength=len(counts)), counts)


def test_a_histogram_of_uniform_scores_close_together_is_flat():
    scores = np.random.default_rng(0).uniform(0.93, 0.99, 1_000_000).astype(np.float32)
    histogram = Histogram()
    histogram.add(scores[:0], scores)
    inner = histogram.summary()['negative'][1:-1]
    assert len(inner) > BINS / 4
    assert max(inner) < 1.1 * min(inner)


def test_intervals_are_those_of_scipys_percentile_bootstrap():
    from scipy import stats

    values = np.random.default_rng(0).beta(0.4, 0.6, size=(200, 2))
    for (mean, low, high), column in zip(intervals(values, seed=1), values.T, strict=True):
        expected = stats.bootstrap((column,), np.mean, method='percentile', rng=2).confidence_interval
        assert (mean, low, high) == pytest.approx((column.mean(), *expected), abs=0.01)
    assert intervals(values, seed=1) == intervals(values, seed=1) != intervals(values, seed=2)
    assert intervals(np.ones((1, 1)), seed=0) == [(1, 1, 1)]


def test_strata_take_right_targets_of_other_strata_out_of_the_ranking():
    task = RankingTask('t', ['x', 'y'], ['A', 'B', 'C', 'D'], [[0, 1, 3], [1]])
    strata = Strata(task, {'a': 0, 'b': 19, 'c': 20, 'd': 100})
    rank, target = np.array([[1, 3, 4], [2, np.inf, np.inf]]), np.array([[1, 0, 3], [1, -1, -1]])
    strata.add(slice(0, 2), rank, target)
    rows = strata.summary(seed=0)
    assert [(row['label'], row['queries'], row['map']['mean']) for row in rows] == [
        ('0', 1, 1 / 2),  # A is third, after B, which is right too, and C
        ('1-19', 2, (1 / 1 + 1 / 2) / 2),  # B is first for x, second for y
        ('100 and more', 1, 1 / 2),  # D is fourth, after two that are right
    ]


def test_where_the_queries_are_skills_the_strata_are_theirs():
    strata = Strata(RankingTask('t', ['A', 'unknown'], ['x', 'y'], [[0], [1]]), {'a': 50})
    strata.add(slice(0, 2), np.array([[1.0], [2.0]]), np.array([[0], [1]]))
    rows = strata.summary(seed=0)
    assert [(row['label'], row['map']['mean']) for row in rows] == [('0', 0.5), ('20-99', 1.0)]


def test_training_titles_are_counted_by_skill(small_dataset):
    titles = training_titles(small_dataset)
    assert sum(titles.values()) == small_dataset.graphs['job'].edges
    assert len(titles) == len(small_dataset.nodes('skill'))


def test_the_readme_lists_every_task_with_the_location_of_its_data():
    readme = (ROOT / 'uwe_jax' / 'workbench' / 'README.md').read_text(encoding='utf-8')
    for name, path in PLACES.items():
        hub = HUB[name].replace('@', '`, ') if name in HUB else ''
        assert f'| `{name}` | `{path}` | {hub and f"`{hub} "}|' in readme
    assert all(f'`{task}`' in readme for task in TASKS)


# Keeping results


def run(tmp_path, models, tasks=(FORWARD, BACKWARD, SAME_SPACE), **settings):
    return benchmark.run([model for model, _ in models], tasks, tmp_path, **settings)


def test_each_model_and_task_has_a_file_of_results(tmp_path):
    content = run(tmp_path, [model('three')], [dataclasses.replace(FORWARD, name='csv:some/where.csv')])
    [result] = content['results']
    [path] = tmp_path.glob('results/three/*.json')
    assert json.loads(path.read_text()) == result
    assert result['model'] == {
        'name': 'three',
        'source': 'letters',
        'fingerprint': 'letters-3',
        'pooling': '',
        'score': None,
    }
    assert (result['task']['queries'], result['task']['measured_queries'], result['task']['targets']) == (5, 5, 5)
    with np.load(path.with_suffix('.npz')) as of_queries:
        assert of_queries['map'].mean() == result['metrics']['map']['mean']
        assert of_queries['map'].dtype == np.float64


def test_tasks_that_share_a_target_space_embed_it_once(tmp_path):
    letters = model('three')
    content = run(tmp_path, [letters])
    assert letters[1].spaces == [SKILLS, TITLES]
    assert [result['task']['name'] for result in content['results']] == ['titles', 'skills', 'names']


def test_a_finished_result_is_not_measured_again(tmp_path):
    first = run(tmp_path, [model('three')])
    again = model('three')
    assert run(tmp_path, [again]) == first
    assert (again[1].spaces, again[1].asked) == ([], [])


def test_an_interrupted_run_continues_after_the_last_complete_task(tmp_path):
    def interrupt(queries, scores):
        if 'SQL' in queries:
            raise KeyboardInterrupt
        return scores

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [model('three', change=interrupt)])
    resumed = model('three')
    run(tmp_path, [resumed])
    assert resumed[1].spaces == [TITLES]


@pytest.mark.parametrize(
    'change',
    [
        {'tasks': [dataclasses.replace(FORWARD, positives=[[0], [1], [2], [4], [2]])]},
        {'seed': 1},
        {'max_queries': 3},
        {'models': [model('three', size=2)]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_result_of_other_settings_is_measured_again(tmp_path, change):
    run(tmp_path, [model('three')], [FORWARD])
    letters = model('three')
    run(tmp_path, **{'models': [letters], 'tasks': [FORWARD]} | change)
    assert change.get('models', [letters])[0][1].spaces == [SKILLS]


@pytest.mark.parametrize('name', ['titles.json', 'titles.npz'])
def test_an_incomplete_result_is_measured_again(tmp_path, name):
    run(tmp_path, [model('three')], [FORWARD])
    path = tmp_path / 'results' / 'three' / name
    path.write_bytes(path.read_bytes()[:100])
    letters = model('three')
    run(tmp_path, [letters], [FORWARD])
    assert letters[1].spaces == [SKILLS]


@pytest.mark.parametrize(
    ('models', 'tasks', 'base', 'message'),
    [
        (1, 0, None, 'no task: expected at least one'),
        (2, 1, None, "model 'one': given 2 times, expected distinct names"),
        (1, 2, None, "task 'titles': given 2 times"),
        (1, 1, 'two', "base 'two': no model has that name, expected one of one"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_model_is_loaded(tmp_path, models, tasks, base, message):
    one = Model('one', 'nowhere', 'tokens', load=pytest.fail)
    with pytest.raises(ValueError, match=message):
        benchmark.run([one] * models, [FORWARD] * tasks, tmp_path, base=base)


def test_the_name_of_a_model_cannot_lead_out_of_the_output():
    with pytest.raises(ValueError, match=r"model '../one': expected a name of letters"):
        Model('../one', 'nowhere', 'tokens', load=pytest.fail)


# Comparing models


def test_models_are_compared_query_by_query_with_the_base(tmp_path):
    two, three = model('two', 2), model('three', 3)
    content = run(tmp_path, [two, three], base='three')
    rows = {(row['task'], row['metric']): row for row in content['comparisons']}
    assert list(rows) == [(task, metric) for task in ('titles', 'skills', 'names') for metric in ('map', 'rp@10')]
    mean = {(r['task']['name'], r['model']['name']): r['metrics']['map']['mean'] for r in content['results']}
    for task in ('titles', 'skills', 'names'):
        row = rows[task, 'map']
        assert (row['model'], row['base']) == ('two', 'three')
        assert row['difference'] == pytest.approx(mean[task, 'two'] - mean[task, 'three'])
        assert row['low'] <= row['difference'] <= row['high']
    assert run(tmp_path / 'alone', [three])['comparisons'] == []


def test_the_markdown_page_has_all_tables(tmp_path):
    content = run(tmp_path, [model('two', 2), model('three', 3)], max_queries=4, seed=7)
    page = markdown.render({'command': 'python -m uwe_jax.workbench', **content})
    assert '**At most 4 queries of each task, drawn at random with seed 7.**' in page
    assert '| task | queries | targets | two | three |' in page
    assert '| titles | 4 of 5 | 5 | ' in page
    assert '| mean of these 3 |' in page
    assert '## Difference from two, points [95 % interval, paired by query]' in page


def test_the_markdown_page_sets_published_numbers_apart(tmp_path):
    page = markdown.render({'command': '', **run(tmp_path, [model('three')])})
    assert '| UWE | mean of the six WorkBench tasks | 40.2 | 57.7 |' in page.split('not measured here')[1]


# The command line


def test_the_source_of_a_model_may_be_in_a_bucket():
    plain, pooled = read_models(['plain=gs://bucket/model', 'pooled=gs://bucket/model:mean'], 'float32')
    assert (plain.source, plain.pooling) == ('gs://bucket/model', 'tokens')
    assert (pooled.source, pooled.pooling) == ('gs://bucket/model', 'mean')


def test_a_model_is_named_and_has_a_pooling(tmp_path):
    base, trained = read_models(['base=all-mpnet-base-v2:mean', f'trained={tmp_path}'], 'float32')
    assert (base.source, base.pooling) == ('all-mpnet-base-v2', 'mean')
    assert (trained.name, trained.source, trained.pooling) == ('trained', str(tmp_path), 'tokens')
    for words in (str(tmp_path), 'base='):
        with pytest.raises(ValueError, match='expected NAME=SOURCE or NAME=SOURCE:SCORE'):
            read_models([words], 'float32')


def test_a_models_score_can_be_changed_field_by_field():
    score = Score(reduce='sum', special_tokens=False)
    assert rescored(score, 'tokens') == score
    assert rescored(score, 'mean') == Score(kind='mean')
    changed = rescored(score, 'attend=both,temperature=0.2,special_tokens=True')
    assert changed == Score(attend='both', temperature=0.2, reduce='sum')


@pytest.mark.parametrize(
    'words', ['max', 'attend', 'attend=left', 'side=query', 'temperature=warm', 'special_tokens=no']
)
def test_an_unknown_score_is_refused_before_anything_is_loaded(words):
    with pytest.raises(ValueError, match='expected'):
        read_models([f'base=x:{words}'], 'float32')


def test_rankers_that_share_weights_embed_a_text_once(narrow_model, make_ranker):
    ranker = SharedRanker.from_pretrained(narrow_model)
    of_both = ranker.with_score(Score(attend='both'))
    assert of_both.embed(SKILLS) is ranker.embed(SKILLS)
    without = ranker.with_score(Score(special_tokens=False)).embed(SKILLS)
    assert len(without.tokens) == len(ranker.embed(SKILLS).tokens) - 2 * len(SKILLS)
    pooled, alone = ranker.with_score(Score(kind='mean')), make_ranker(Score(kind='mean'))
    np.testing.assert_allclose(pooled.score(TITLES, SKILLS), alone.score(TITLES, SKILLS), atol=1e-6)


def test_models_of_one_source_are_measured_as_each_by_itself(narrow_model, tmp_path):
    words = [f'{n}={narrow_model}:{score}' for n, score in enumerate(('attend=both', 'kind=maxsim', 'mean'))]
    skills = dataclasses.replace(BACKWARD, skills='query')
    together = benchmark.run(read_models(words, 'float32'), [FORWARD, skills], tmp_path / 'together')
    for word in words:
        alone = benchmark.run(read_models([word], 'float32'), [FORWARD, skills], tmp_path / 'alone')
        for result in alone['results']:
            [same] = [
                other
                for other in together['results']
                if (other['model'], other['task']) == (result['model'], result['task'])
            ]
            assert same['metrics'] == result['metrics']


def test_a_model_whose_skills_attend_is_told_by_the_task_where_they_are(narrow_model, tmp_path):
    scores = ('attend=from_skill', 'attend=query', 'attend=target')
    words = [f'{score.removeprefix("attend=")}={narrow_model}:{score}' for score in scores]
    content = benchmark.run(
        read_models(words, 'float32'), [FORWARD, dataclasses.replace(BACKWARD, skills='query')], tmp_path
    )
    of = {(r['model']['name'], r['task']['name']): r['metrics'] for r in content['results']}
    assert of['from_skill', FORWARD.name] == of['query', FORWARD.name]
    assert of['from_skill', BACKWARD.name] == of['target', BACKWARD.name]


def command(*flags):
    arguments = [sys.executable, '-m', 'uwe_jax.workbench', *flags]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)


def test_the_command_line_measures_models_on_a_file_of_pairs(narrow_model, tmp_path):
    (tmp_path / 'pairs.csv').write_text(
        'query,target\nbaker,bake bread\nbus driver,drive a bus\nnurse,care for patients\n'
    )
    output = tmp_path / 'output'
    models = [f'--model=soft={narrow_model}', f'--model=mean={narrow_model}:mean']
    done = command(*models, f'--tasks=csv:{tmp_path}/pairs.csv', f'--output={output}', '--base=mean', '--max_queries=2')
    assert done.returncode == 0, done.stderr
    content = json.loads((output / 'results.json').read_text())
    assert done.stdout == markdown.summary(content) + '\n'
    assert [result['model']['pooling'] for result in content['results']] == ['tokens', 'mean']
    assert content['results'][0]['model']['score']['kind'] == 'soft'
    assert json.loads((output / 'comparison.json').read_text()) == content['comparisons']
    assert (output / 'results.md').read_text() == markdown.render(content)
    assert '<html' in (output / 'report.html').read_text()
    soft, mean = (result['attention'] for result in content['results'])
    assert mean == []
    for shown in soft:
        shape = len(shown['query_tokens']), len(shown['target_tokens'])
        assert np.shape(shown['a']) == np.shape(shown['c']) == shape
    assert 1 <= len(soft) <= 2


def test_a_missing_file_is_reported_before_anything_is_written(tmp_path):
    flags = [f'--model=first={tmp_path / "nowhere"}', f'--tasks=csv:{tmp_path / "pairs.csv"}']
    options = console.parse(Options, [*flags, f'--output={tmp_path / "output"}'], prog='workbench')
    with pytest.raises((ValueError, OSError), match=re.escape(str(tmp_path / 'pairs.csv'))):
        measure_command(options)
    assert list(tmp_path.iterdir()) == []


def test_a_second_command_with_the_same_output_is_refused(tmp_path, narrow_model):
    (tmp_path / 'pairs.csv').write_text('query,target\nbaker,bake bread\nnurse,care for patients\n')
    options = Options((f'a={narrow_model}',), f'csv:{tmp_path / "pairs.csv"}', tmp_path)
    with claim(tmp_path), pytest.raises(DataError, match='another process is at work on it'):
        measure_command(options)
    assert not (tmp_path / 'results').exists()


def test_options_that_repeat_are_all_read():
    flags = ['--model=a=x', '--model=b=y:mean', '--tasks=house,tech', '--data=data', '--data=onet=o', '--output=out']
    options = console.parse(Options, flags, prog='workbench')
    assert (options.model, options.data) == (('a=x', 'b=y:mean'), ('data', 'onet=o'))
    assert (options.tasks, options.base, options.max_queries, options.dtype) == ('house,tech', None, None, 'float32')


def test_a_command_without_a_model_is_refused():
    with pytest.raises(ValueError, match='--model: expected NAME=SOURCE'):
        measure_command(console.parse(Options, ['--tasks=house', '--output=out'], prog='workbench'))


@pytest.mark.parametrize(('option', 'value'), [('max_queries', 0), ('seed', -1)])
def test_a_number_out_of_range_is_refused(option, value):
    with pytest.raises(ValueError, match=f'--{option}={value}: expected'):
        measure_command(Options(('a=x',), 'house', pathlib.Path('out'), **{option: value}))
