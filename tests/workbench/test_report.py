"""The HTML report: what the page shows, and how a real browser renders it."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import types
import zlib
from functools import partial
from html import escape
from typing import Any

import lxml.html
import matplotlib.image
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uwe_jax.evaluation.metrics import METRICS
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.interaction import Score
from uwe_jax.workbench import benchmark, report
from uwe_jax.workbench.models import Model
from uwe_jax.workbench.published import PUBLISHED, WORKBENCH
from uwe_jax.workbench.report.scale import Scale
from uwe_jax.workbench.training import read_training

VERBS = ('apply', 'assess', 'build', 'coordinate', 'design', 'inspect', 'maintain', 'manage', 'operate', 'teach')
THINGS = (
    'care plans', 'data pipelines', 'electrical installations', 'food hygiene', 'hydraulic systems', 'machine learning',
    'project budgets', 'public transport timetables', 'SQL', 'surface treatments', 'wooden structures',
    'wound dressings',
)  # fmt: skip
SKILLS = [f'{verb} {thing}' for verb in VERBS for thing in THINGS]
PLACES = ('in a small team', 'for clients abroad', 'on night shifts', 'under supervision', 'from day one')
MODELS = {'base': 1.5, 'trained': 2.3, 'trained-mean': 1.8}  # how far right targets stand above wrong ones
TASKS = {
    'job_to_skill': ('Job title to ESCO skills', (60, 120), ''),
    'skill_to_job': ('ESCO skill to job titles', (60, 120), ''),
    'job_normalisation': ('Vacancy title to ESCO occupation', (60, 120), ''),
    'skill_normalisation': (
        'Alternative name to ESCO skill', (72, 139), '1.3 % of the alternatives are not in the file of ESCO 1.2.0',
    ),
    'house': ('Vacancy sentence to ESCO skills (House)', (60, 120), ''),
    'tech': ('Vacancy sentence to ESCO skills (Tech)', (60, 120), ''),
    'techwolf': ('Vacancy sentence to ESCO skills (TechWolf)', (60, 120), ''),
    'skill_similarity': ('Skill to related skills (SkillMatch-1K)', (60, 120), ''),
    'onet_job_to_skill': ('O*NET title to technologies, zero-shot', None, ''),
}  # fmt: skip
HOSTILE = (
    '<script>document.title = "run"</script>',
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><b onmouseover='x'>&amp;",
    '</details></table><!-- ]]>',
    '<svg/onload=alert(1)>',
    '\u202eright to left\u202c مهندس بيانات 数据工程师',
    'javascript:alert(1)',
    '{{ 7 * 7 }} ${7} %s\n\n# *',
)


TRAINING_DATA = types.SimpleNamespace(
    fingerprint='5c2f04c1a9d1e07b',
    nodes=lambda kind: [{'text': skill} for skill in SKILLS],
    graphs={'job': types.SimpleNamespace(skill_degree=np.resize([0, 7, 40, 300], len(SKILLS)))},
)


class Noisy:
    """A scorer whose right targets score higher by `strength` standard deviations."""

    def __init__(self, name, strength, tasks):
        self.fingerprint = f'{zlib.crc32(name.encode()):016x}'
        self.pair_score = Score()
        self.right = {query: right for task in tasks for query, right in zip(task.queries, task.positives, strict=True)}
        self.strength = strength

    def index(self, targets):
        self.targets = len(targets)
        return self

    def score(self, queries):
        rows = []
        for query in queries:
            row = np.random.default_rng(zlib.crc32(query.encode())).normal(size=self.targets)
            row[self.right[query]] += self.strength
            rows.append(0.35 + 0.1 * row)
        return np.array(rows)


def attention(rng, query, target):
    words, others = (['<s>', *text.split(), '</s>'] for text in (query, target))
    logits, cosines = rng.normal(size=(2, len(words), len(others)))
    a = np.exp(2 * logits)
    a /= a.sum(axis=1, keepdims=True)
    return {
        'query': query,
        'target': target,
        'score': float((a * np.tanh(cosines)).sum() / len(words)),
        'query_tokens': words,
        'target_tokens': others,
        'a': a.round(4).tolist(),
        'c': np.tanh(cosines).round(4).tolist(),
    }


def made(
    names=('house', 'skill_normalisation', 'onet_job_to_skill'),
    models=MODELS,
    max_queries=50,
    training_data: Any = TRAINING_DATA,
):
    """Results of a real run on texts and scores that are drawn with a seed; only attention maps are made up."""
    rng = np.random.default_rng(0)
    tasks = []
    for name in names:
        queries = [
            f'{rng.choice(VERBS)} {rng.choice(THINGS)} and {rng.choice(THINGS)} {rng.choice(PLACES)}, no. {n}'
            for n in range(60 * len(tasks), 60 * len(tasks) + 60)
        ]
        positives = [rng.choice(len(SKILLS), rng.integers(1, 8), replace=False).tolist() for _ in queries]
        title, expected, note = TASKS[name]
        tasks.append(RankingTask(name, queries, SKILLS, positives, title, expected, note))
    measured = [
        Model(name, f'models/{name}', 'mean' if 'mean' in name else 'tokens', partial(Noisy, name, strength, tasks))
        for name, strength in models.items()
    ]
    with tempfile.TemporaryDirectory() as output:
        content = benchmark.run(
            measured, tasks, pathlib.Path(output), max_queries=max_queries, training_data=training_data
        )
    for result in content['results']:
        if result['model']['pooling'] == 'tokens':
            result['attention'] = [
                attention(rng, miss['query'], miss['best'][0]['text']) for miss in result['misses'][:3]
            ]
    command = f'python -m uwe_jax.workbench --tasks={",".join(names)} --max_queries={max_queries} --output=out'
    return {'format': 1, 'command': command, **content}


@pytest.fixture(scope='module')
def results():
    return made()


@pytest.fixture(scope='module')
def page(results):
    return report.render(results)


def document(text):
    return lxml.html.document_fromstring(text)


def rows(tree, label):
    """The rows of a table's bodies, each as the texts of its cells."""
    [table] = tree.xpath(f'//table[@aria-label="{label}"]')
    return [[cell.text_content() for cell in row] for row in table.xpath('tbody/tr')]


# What the page shows


def test_scores_are_listed_by_task_and_model_with_their_intervals(results, page):
    listed = rows(document(page), 'Scores')
    assert len(listed) == 4 * (1 + 3)  # the mean is a group too
    assert listed[0] == ['houseVacancy sentence to ESCO skills (House)']
    interval = results['results'][0]['metrics']['map']
    mean, low, high = (f'{100 * interval[name]:.1f}' for name in ('mean', 'low', 'high'))
    assert listed[1][:3] == ['base', mean, f'{low} to {high}']
    means = [result['metrics']['map']['mean'] for result in results['results'] if result['model']['name'] == 'base']
    assert listed[12:14] == [['Mean of these 3 tasks'], ['base', f'{100 * np.mean(means):.1f}', '', listed[13][3], '']]


def test_the_best_of_a_task_is_in_bold(page):
    bold = document(page).xpath('//table[@aria-label="Scores"]//td/b/ancestor::tr')
    assert [row.xpath('string(.//span[contains(@class, "model")])') for row in bold] == ['trained'] * 3


def test_a_size_other_than_the_published_one_is_marked(page):
    tree = document(page)
    house, names, onet = rows(tree, 'Tasks')
    assert house[1:] == ['50', '60', '60', '120', '120', '']
    assert names[1:] == ['50', '60', '≠ 72', '120', '≠ 139', TASKS['skill_normalisation'][2]]
    assert onet[1:] == ['50', '60', '', '120', '', '']
    assert len(tree.xpath('//*[@class="differs"]')) == 2


def test_the_page_says_first_that_queries_are_a_sample(results, page):
    words = 'At most 50 queries of each task, drawn at random with seed 0: 3 of 3 tasks measured on a sample.'
    assert document(page).xpath('normalize-space(//p[@class="sampled"])') == words
    whole = [result | {'task': result['task'] | {'max_queries': None}} for result in results['results']]
    assert 'At most' not in report.render(results | {'results': whole})


def test_a_difference_whose_interval_excludes_0_is_called_better_or_worse(results):
    differences = [(0.05, 0.02, 0.08), (0.01, -0.02, 0.04), (-0.05, -0.08, -0.001)]
    comparisons = [
        {'task': 'house', 'model': 'trained', 'base': 'base', 'metric': 'map'}
        | dict(zip(('difference', 'low', 'high'), difference, strict=True))
        for difference in differences
    ]
    tree = document(report.render(results | {'comparisons': comparisons}))
    listed = rows(tree, 'Differences from base')[1:]
    assert [row[2:5] for row in listed] == [
        ['+5.0', '+2.0 to +8.0', 'better'],
        ['+1.0', '−2.0 to +4.0', 'not told apart'],
        ['−5.0', '−8.0 to −0.1', 'worse'],
    ]
    dots = tree.xpath('//circle/@class')
    assert ['filled' in dot for dot in dots] == [True, False, True]
    assert 'as 2 of 3 do' in tree.xpath('string(//section[@id="compared-with-the-base"])')


def test_published_numbers_are_marked_everywhere(page):
    tree = document(page)
    heads = tree.xpath('//table[@aria-label="Published numbers"]/thead//th/text()')
    assert heads == ['Model', 'MAP, published', 'RP@10, published']
    listed = rows(tree, 'Published numbers')
    assert listed[:2] == [[WORKBENCH], ['UWE', '40.2', '57.7']]
    assert sum(len(row) == len(heads) for row in listed) == len(PUBLISHED)
    zero_shot = rows(tree, 'onet_job_to_skill, in per cent')
    assert [row[0] for row in zero_shot if row[-1] == '32.9'] == ['UWEpublished']
    for bar in tree.xpath('//rect[contains(@class, "published")]'):
        assert 'published' in bar.getparent().getparent().getparent().text_content()


def test_the_published_mean_is_compared_only_with_a_mean_over_all_six_tasks(page):
    assert 'since it lacks job_to_skill, skill_to_job' in document(page).text_content()
    six = made(tuple(TASKS)[:8], {'base': 1.5}, max_queries=60)
    tree = document(report.render(six))
    assert 'not quite comparable: skill_normalisation.' in tree.text_content()
    listed = rows(tree, f'{WORKBENCH}, in per cent')
    of_task = {result['task']['name']: result['metrics']['map']['mean'] for result in six['results']}
    extraction = np.mean([of_task.pop(name) for name in ('house', 'tech', 'techwolf')])
    mean = np.mean([*of_task.values(), extraction])
    assert (listed[1][0], listed[1][-1]) == ('base', f'{100 * mean:.1f}')


def test_an_attention_map_has_a_cell_for_each_pair_of_tokens(results, page):
    first = results['results'][0]['attention'][0]
    [a, c] = document(page).xpath('(//section[@id="attention"]//figure)[1]//table')
    for table, values in ((a, first['a']), (c, first['c'])):
        assert table.xpath('thead//span/text()') == first['query_tokens']
        assert table.xpath('tbody//th/text()') == first['target_tokens']
        shares = [[float(cell.get('style').split()[1]) for cell in row.xpath('td')] for row in table.xpath('tbody/tr')]
        np.testing.assert_allclose(shares, np.abs(values).T, atol=0.006)


def test_a_miss_shows_its_right_targets_with_their_ranks(results, page):
    shown = document(page).xpath('//table[@aria-label="Misses"]/tbody/tr')
    misses = [miss for result in results['results'] for miss in result['misses']]
    for row, miss in zip(shown, misses, strict=True):
        right, best = [one['text'] for one in miss['positives']], [one['text'] for one in miss['best']]
        assert row[0].text == miss['query']
        assert [item.text_content() for item in row[1].iter('li')] == [
            f'{one["rank"]}{one["text"]}' for one in miss['positives']
        ]
        assert [item.text_content() for item in row[2].iter('li')] == best
        assert [bold.text for bold in row[2].iter('b')] == [text for text in best if text in right]
        assert row[3].text == f'{100 * miss["average_precision"]:.1f}'


def test_a_workdir_shows_what_became_of_attention_positives_and_accuracy(results, tmp_path):
    lines = [
        {'step': step, 'job/entropy': step / 300, 'sentence/entropy': None, 'job/forward/positives': 2.5}
        for step in range(1, 301)
    ]
    (tmp_path / 'metrics.jsonl').write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
    training = read_training(str(tmp_path))
    assert list(training['curves']) == ['Entropy of A', 'Positives per row']
    assert list(training['curves']['Entropy of A']) == ['job']
    entropy = training['curves']['Entropy of A']['job']
    assert (entropy['steps'][0], entropy['values'][0]) == (2, pytest.approx(2 / 300))  # the mean of three steps
    section = document(report.render(results | {'training': [training]})).get_element_by_id('training')
    assert section.xpath('string(h3)').split() == [str(tmp_path), '300', 'steps']
    assert section.xpath('.//svg/@aria-label') == [
        'Entropy of A: job from 0.01 to 1.00',
        'Positives per row: job from 2.50 to 2.50',
    ]
    for curve, y in zip(section.xpath('.//polyline'), ((99.33, 0.33), (0, 0)), strict=True):
        points = [tuple(map(float, point.split(','))) for point in curve.get('points').split()]
        assert (points[0], points[-1]) == (
            (0.67, pytest.approx(y[0], abs=0.01)),
            (99.67, pytest.approx(y[1], abs=0.01)),
        )
        assert len(points) == 100


def test_a_model_without_a_workdir_has_no_curves(tmp_path):
    assert read_training('all-mpnet-base-v2') is None
    assert read_training(str(tmp_path)) is None


def test_the_page_says_how_it_was_made(results, page):
    tree = document(page)
    assert tree.xpath('string(//pre)') == results['command']
    assert rows(tree, 'Models')[1][:4] == [
        'trained',
        'models/trained',
        'tokens',
        results['results'][1]['model']['fingerprint'],
    ]
    seconds = results['results'][0]['seconds']['score']
    assert rows(tree, 'Runs')[0][0:4:3] == ['house', f'{seconds:.1f}']
    assert len(rows(tree, 'All metrics')[1]) == 1 + len(METRICS)


def test_sections_without_content_are_left_out():
    one = made(('house',), {'trained-mean': 9.0}, max_queries=1, training_data=None)
    tree = document(report.render(one))
    assert tree.xpath('//h2/text()') == [
        'Scores',
        'Tasks',
        'Task by task',
        'Published numbers',
        'Scores of right and wrong targets',
        'All metrics',
        'How it was made',
    ]
    assert tree.xpath('//nav//a/@href') == [f'#{section.get("id")}' for section in tree.xpath('//section')]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.sampled_from([1e-9, 1.0, 1e6]))
@example([5e-324], 1.0)
@example([78.43826239941595, 78.43826239941593], 1.0)
def test_an_axis_begins_and_ends_at_round_numbers_around_all_values(values, unit):
    values = [unit * value for value in values]
    scale = Scale(values)
    slack = 1e-6 * (scale.ticks[-1] - scale.ticks[0])
    assert 2 <= len(scale.ticks) <= 12
    assert scale.ticks[0] <= min(values) + slack
    assert scale.ticks[-1] >= max(values) - slack
    assert len({scale.label(tick) for tick in scale.ticks}) == len(scale.ticks)


def with_texts(value: Any, change, name='') -> Any:
    """Results with all their texts changed, except the names of metrics."""
    if isinstance(value, dict):
        return {key: with_texts(one, change, key) for key, one in value.items()}
    if isinstance(value, list):
        return [with_texts(one, change) for one in value]
    return change(value) if isinstance(value, str) and name != 'metric' else value


@pytest.fixture(scope='module')
def hostile(results):
    return with_texts(results, lambda text: text + HOSTILE[len(text) % len(HOSTILE)])


def test_markup_in_a_text_is_escaped(results, hostile):
    shown, harmless = (document(report.render(one)) for one in (hostile, with_texts(results, lambda text: text + 'x')))
    assert [one.tag for one in shown.iter()] == [one.tag for one in harmless.iter()]
    assert [one.keys() for one in shown.iter()] == [one.keys() for one in harmless.iter()]
    assert shown.xpath('string(//pre)') == hostile['command']


# How a browser renders it

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--hide-scrollbars',
)  # fmt: skip
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='needs a browser: chromium, as Debian calls its package')


def in_a_browser(test):
    return pytest.mark.slow(needs_chromium(test))


@pytest.fixture
def browse(tmp_path):
    """Opens a page in a new browser with the wanted flags; returns its output and its console."""

    def open_page(text, *wanted):
        (tmp_path / 'page.html').write_text(text, encoding='utf-8')
        place = f'--user-data-dir={tmp_path / "profile"}'
        command = [CHROMIUM, *FLAGS, place, '--enable-logging=stderr', *wanted, (tmp_path / 'page.html').as_uri()]
        done = subprocess.run(command, capture_output=True, encoding='utf-8', timeout=120, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if 'CONSOLE' in line]

    return open_page


@in_a_browser
def test_a_browser_shows_every_table_and_plot_without_a_message_on_its_console(hostile, browse):
    shown, console = browse(report.render(hostile), '--dump-dom')
    tree = document(shown)
    assert console == []
    assert len(rows(tree, 'Scores')) == 16
    assert len(rows(tree, 'Tasks')) == 3
    assert len(rows(tree, 'All metrics')) == 12
    assert len(rows(tree, 'Runs')) == 9
    assert len(rows(tree, 'Published numbers')) == len(PUBLISHED) + len({one.task for one in PUBLISHED})
    assert len(tree.xpath('//svg[@class="histogram"]')) == 9
    assert len(tree.xpath('//section[@id="compared-with-the-base"]//circle')) == 12
    assert 'At most 50 queries' in tree.text_content()


@in_a_browser
def test_the_content_security_policy_refuses_to_fetch(page, browse):
    _, console = browse(page.replace('</main>', '<img src="http://127.0.0.1:9/x.png"></main>'), '--dump-dom')
    assert 'Content Security Policy' in ''.join(console)


@in_a_browser
def test_a_page_fits_its_window_and_leaves_room_for_plots(page, browse):
    frames = [f'<iframe width={width} srcdoc="{escape(page)}"></iframe>' for width in (320, 1280)]
    script = """<script>
      onload = () => {
        document.title = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {
          const inside = frame.contentDocument
          const plots = [...inside.querySelectorAll('svg')].map(plot => plot.getBoundingClientRect().width)
          return [inside.documentElement.scrollWidth, Math.min(...plots)]
        }))
      }</script>"""
    shown, _ = browse(''.join(['<!DOCTYPE html>', *frames, script]), '--dump-dom')
    (narrow, narrow_plot), (wide, wide_plot) = json.loads(document(shown).xpath('string(//title)'))
    assert (narrow, wide) == (320, 1280)
    assert min(narrow_plot, wide_plot) > 80


@in_a_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_page_follows_the_colour_scheme_of_the_reader(page, browse, tmp_path, scheme):
    picture = tmp_path / 'page.png'
    wanted = f'--blink-settings=preferredColorScheme={["dark", "light"].index(scheme)}'
    browse(page, wanted, '--window-size=900,1200', f'--screenshot={picture}')
    pixels = matplotlib.image.imread(picture)[..., :3]
    background = np.median(pixels, axis=(0, 1)).mean()
    assert background > 0.95 if scheme == 'light' else background < 0.15
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
