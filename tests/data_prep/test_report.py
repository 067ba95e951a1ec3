"""The report: titles by their sources, what an epoch shows, what truncation cuts and what fills a batch."""

import dataclasses
import json

import numpy as np
import pytest

from data_prep.report import Options, run
from data_prep.report.balance import balance, batch, epoch, titles_per_skill, tokens
from tests.data_prep.conftest import SKILL, write_jsonl
from uwe_jax.data.graph import GRAPHS, SIDES
from uwe_jax.data.loader import StepReader
from uwe_jax.data.packed_plan import PackedPlan
from uwe_jax.data.plan import Plan
from uwe_jax.io.errors import DataError


@pytest.fixture
def enriched(esco, build):
    """ESCO's four skills have 3, 3, 2 and no titles; a vacancy and two synthetic titles add to that."""
    write_jsonl(esco / 'vacancies.jsonl', [{'title': 'SQL developer', 'skills': ['SQL']}, LONG])
    synthetic = [('alone', 'juggler'), ('alone', 'data engineer'), ('sql', 'SQL developer')]
    write_jsonl(
        esco / 'titles.jsonl', [{'skill': SKILL + s, 'title': title, 'source': 'synthetic'} for s, title in synthetic]
    )
    vacancies = [str(esco / name) for name in ('sentences.csv', 'vacancies.jsonl')]
    return build(vacancies=vacancies, synthetic=[str(esco / 'titles.jsonl')])


LONG = {'sentence': 'time ' * 98, 'skills': ['bake bread']}  # 98 words that are one token each


def options(dataset, **changes):
    usual = {'shards': dataset.directory, 'output': dataset.directory.parent / 'report', 'batch_size': 2}
    return Options(**(usual | changes))


def test_titles_are_counted_with_those_of_each_further_source_added(enriched):
    sources = titles_per_skill(enriched)['by_source']
    assert list(sources) == ['ESCO', 'vacancies', 'synthetic']
    # A title that some real source has is real: 'data engineer' joined to 'juggle' counts as ESCO's.
    assert sources['ESCO']['skills'] == [[1, 1], [2, 1], [3, 2]]
    assert sources['vacancies']['skills'] == [[1, 1], [2, 1], [3, 1], [4, 1]]
    assert sources['synthetic']['skills'] == [[2, 2], [3, 1], [4, 1]]


def test_skills_with_fewer_than_twenty_titles_are_counted(dataset):
    sources = titles_per_skill(dataset)['by_source']
    assert list(sources) == ['ESCO']
    degree = dataset.graphs['job'].skill_degree
    assert sources['ESCO']['fewer'] == sum(int(n) < 20 for n in degree)
    assert sum(skills for _, skills in sources['ESCO']['skills']) == dataset.skills


def test_the_positives_of_an_epoch_are_the_edges_within_its_batches(small_dataset):
    shown = epoch(small_dataset, 16, seed=3)
    plan = Plan(small_dataset.graphs, batch_size=16, seed=3, distractor_probability=0.8)
    with_an_edge = round(16 * plan.steps_per_epoch)
    for name, graph in small_dataset.graphs.items():
        edges = set(zip(graph.edge_skill.tolist(), graph.edge_target.tolist(), strict=True))
        count = dict.fromkeys(range(small_dataset.skills), 0)
        for number in range(with_an_edge):
            batch = plan(number // 16)
            skill = int(batch.skill[number % 16])
            count[skill] += sum((skill, target) in edges for target in batch.targets[name].node.tolist())
        times, skills = np.unique(list(count.values()), return_counts=True)
        assert shown['seen'][name] == np.stack([times, skills], axis=1).tolist()


def test_an_epoch_draws_at_most_one_target_per_skill_and_graph(dataset):
    shown = epoch(dataset, 64, seed=0)
    for name in GRAPHS:
        rows = shown['skills'][name]
        assert sum(row['skills'] for row in rows) == dataset.skills
        assert all(row['drawn'] <= min(row['positives'], 1) for row in rows)
        assert [row for row in rows if row['targets'] == [0, 0]] == [row for row in rows if not row['drawn']]
        pairs, drawn, uniform = (
            sum(row['skills'] * row[key] for row in rows) for key in ('mean_targets', 'drawn', 'uniform')
        )
        assert pairs == pytest.approx(dataset.graphs[name].edges, rel=1e-3)
        assert drawn == pytest.approx(uniform, rel=1e-2)
    assert shown['skills']['job'][-1]['uniform'] > 2 > shown['skills']['job'][1]['uniform']


def test_tokens_and_padding_are_those_of_the_batches_that_training_reads(small_dataset):
    whole = epoch(small_dataset, 16, seed=0)
    lengths = small_dataset.manifest['lengths'] | {'sentence': 32}  # so that distractors are cut
    short = dataclasses.replace(small_dataset, manifest={**small_dataset.manifest, 'lengths': lengths})
    cut = epoch(short, 16, seed=0)
    plan = Plan(small_dataset.graphs, batch_size=16, seed=0, distractor_probability=0.8)
    for of, shown in ((small_dataset, whole), (short, cut)):
        read = StepReader(of, PackedPlan(plan, of, of.manifest['lengths'], devices=1), np.arange(16))
        batches = [read(step) for step in range(shown['batches'])]
        real = {side: sum(int(each.texts[side].length.sum()) for each in batches) for side in SIDES}
        assert shown['tokens'] == real
        padding = np.mean([each.rows.text == 0 for each in batches])
        assert batch(shown)['padding'] == pytest.approx(padding, abs=1e-4)
    assert cut['tokens']['sentence'] < whole['tokens']['sentence']


def test_texts_longer_than_what_the_build_kept_are_counted_whole_and_shown(enriched):
    sentences = tokens(enriched)['sentence']
    assert sentences['length'] == 64
    assert sentences['texts'][-1] == [100, 1]  # with <s> and </s>
    assert sentences['cut_texts'] == pytest.approx(1 / 3, abs=1e-5)
    assert sentences['cut_tokens'] == pytest.approx(36 / sum(n * texts for n, texts in sentences['texts']), abs=1e-5)
    assert [text['tokens'] for text in sentences['longest_cut']] == [100]
    assert sentences['longest_cut'][0]['text'].startswith('time time')


def test_texts_are_not_counted_with_another_tokenizer_than_the_datasets(enriched):
    manifest = {**enriched.manifest, 'tokenizer': {**enriched.manifest['tokenizer'], 'fingerprint': 'another'}}
    with pytest.raises(DataError, match='not the tokenizer that'):
        tokens(dataclasses.replace(enriched, manifest=manifest))


def test_the_command_leaves_plots_and_all_of_their_numbers(enriched):
    chosen = options(enriched)
    run(chosen, 'python -m data_prep report')
    plots = ('titles_per_skill', 'epoch', 'tokens', 'batch')
    names = sorted(path.name for path in chosen.output.iterdir())
    assert names == sorted(['report.json', *(f'{name}.png' for name in plots)])
    numbers = json.loads((chosen.output / 'report.json').read_text())
    assert numbers == {'command': 'python -m data_prep report', **balance(enriched, 2, 0)}
    for name in plots:
        assert (chosen.output / f'{name}.png').read_bytes().startswith(b'\x89PNG')
    assert [path.name for path in chosen.output.parent.iterdir() if path.name.startswith('.')] == []


def test_a_dataset_without_alternatives_is_reported_too(esco, build):
    skills = esco / 'skills_en.csv'
    skills.write_text(skills.read_text().replace('altLabels', 'others'))
    dataset = build()
    run(options(dataset), 'report')
    numbers = json.loads((dataset.directory.parent / 'report' / 'report.json').read_text())
    assert set(numbers['tokens']) == {'skill', 'job', 'sentence'}
    assert numbers['batch']['tokens']['alternative'] == 0


REFUSED = {
    'more skills per batch than there are': ({'batch_size': 512}, 'only 4 skills have an edge'),
    'no skill per batch': ({'batch_size': 0}, '--batch_size=0: expected 1 or more'),
    'a seed below 0': ({'seed': -1}, '--seed=-1: expected 0 or more'),
    'no dataset': ({'shards': 'nowhere'}, 'not a dataset'),
    'an output that is there': ({'output': ''}, 'already there'),
    'an output below a file': ({'output': 'manifest.json/report'}, 'cannot be written'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_in_one_line_and_nothing_is_left_behind(name, enriched):
    changes, message = REFUSED[name]
    changes = {flag: enriched.directory / value if isinstance(value, str) else value for flag, value in changes.items()}
    before = sorted(enriched.directory.parent.rglob('*'))
    with pytest.raises(DataError, match=message) as caught:
        run(options(enriched, **changes), 'report')
    assert '\n' not in str(caught.value)
    assert sorted(enriched.directory.parent.rglob('*')) == before
