"""From ESCO's CSV files to a dataset: what is kept, what is repaired, what is refused, and that nothing leaks."""

import importlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from data_prep.__main__ import COMMANDS
from data_prep.build.lengths import choose_lengths
from data_prep.build.shards import edge_parts
from data_prep.build.split import hold_out
from data_prep.pairs import PairsBuilder
from tests.conftest import ROOT, SAMPLE, read_rows
from tests.data_prep.conftest import JOB, JOBS, SKILL, SKILLS, pairs_by_text, write_csv
from uwe_jax.data.graph import GRAPHS, SIDES, open_dataset
from uwe_jax.data.loader import StepReader
from uwe_jax.data.packed_plan import PackedPlan
from uwe_jax.data.plan import Plan
from uwe_jax.data.text import match_key
from uwe_jax.io import console
from uwe_jax.io.errors import DataError
from uwe_jax.models.download import FetchError


def test_the_three_graphs_hold_what_the_files_say(build):
    dataset = build()
    pairs = pairs_by_text(dataset)
    engineer = {
        (skill, title) for skill in ('SQL', 'query languages') for title in ('data engineer', 'engineer of data')
    }
    both = {('SQL', 'expert'), ('query languages', 'expert'), ('bake bread', 'expert')}  # one text, two occupations
    assert pairs['job'] == engineer | both | {('bake bread', 'baker')}
    assert pairs['sentence'] == {
        ('SQL', 'You write SQL.'),
        ('bake bread', 'You bake and query.'),
        ('query languages', 'You bake and query.'),
    }
    assert pairs['alternative'] == {
        ('SQL', 'query languages'),
        ('query languages', 'query languages'),  # whose label it is
        ('SQL', 'structured query'),
        ('query languages', 'QL'),
        ('bake bread', 'make loaves'),
    }
    assert [node['text'] for node in dataset.nodes('skill')] == ['SQL', 'query languages', 'bake bread', 'juggle']
    [expert] = [node for node in dataset.nodes('job') if node['text'] == 'expert']
    assert expert['ids'] == [JOB + 'engineer', JOB + 'baker']


def test_a_dataset_in_a_bucket_is_the_same_and_is_read_from_a_copy(build, bucket, tmp_path):
    there, here = build(output=f'gs://{bucket}/data'), build()
    assert there.manifest == here.manifest
    assert there.directory.is_relative_to(tmp_path / 'cache')
    assert pairs_by_text(there) == pairs_by_text(here)


def test_a_dataset_that_is_in_the_bucket_already_is_not_built_again(build, bucket, bucket_server):
    build(output=f'gs://{bucket}/data')
    bucket_server.requests.clear()
    with pytest.raises(DataError, match=f'gs://{bucket}/data: already there'):
        build(output=f'gs://{bucket}/data')
    assert not [line for line in bucket_server.requests if line.startswith('POST')]


def test_half_a_dataset_is_none_and_is_completed_by_the_same_command(build, bucket, bucket_server):
    bucket_server.fault('POST .*manifest.json', 403)
    with pytest.raises(DataError, match=f'gs://{bucket}/data/manifest.json: no permission'):
        build(output=f'gs://{bucket}/data')
    with pytest.raises(DataError, match=rf'gs://{bucket}/data: not a dataset \(no manifest.json\)'):
        open_dataset(f'gs://{bucket}/data')
    assert build(output=f'gs://{bucket}/data').fingerprint == build().fingerprint


def test_a_damaged_copy_of_a_dataset_is_named_with_its_bucket(build, bucket):
    path = f'gs://{bucket}/data'
    copy = build(output=path).directory
    (copy / 'nodes' / 'job.jsonl').write_text('')
    with pytest.raises(DataError, match=rf'{copy}/nodes/job.jsonl was cut short .*; remove this copy of {path}'):
        open_dataset(path)


def test_what_was_repaired_is_counted_and_shown(build, caplog):
    with caplog.at_level('INFO'):
        repairs = build().manifest['repairs']
    assert {kind: repair['count'] for kind, repair in repairs.items()} == {
        "alternative that is another skill's label, joined to both": 1,
        'blank line in a cell, dropped': 1,
        'label that differs from another only in spaces, dropped': 1,
        'repeated label in a cell, dropped': 1,
        'repeated relation, essential wins': 1,
        'skill: its own label among its alternatives, dropped': 1,
        'vacancy or sentence without a known skill, dropped': 1,
    }
    assert repairs['vacancy or sentence without a known skill, dropped']['examples'] == [
        'sentences.csv, line 5: Call us.'
    ]
    assert 'repaired or dropped: 7 texts and pairs of 7 kinds, counted in manifest.json' in caplog.messages


def test_essential_wins_over_optional_and_can_be_asked_for_alone(build):
    pairs = pairs_by_text(build(relations='essential'))
    assert {skill for skill, title in pairs['job'] if title == 'data engineer'} == {'SQL'}


def test_without_sentences_those_of_the_skills_descriptions_stand_in(build):
    dataset = build(vacancies=[])
    expected = {('SQL', 'To ask a database.'), ('query languages', 'Languages.'), ('query languages', 'They query.')}
    assert pairs_by_text(dataset)['sentence'] == expected
    assert 'descriptions' in dataset.manifest['sources'][1]['from']


def test_without_alternatives_only_that_graph_is_empty(esco, build):
    edit('skills_en.csv', drop('altLabels'))(esco)
    dataset = build()
    assert [len(pairs) for pairs in pairs_by_text(dataset).values()] == [8, 3, 0]
    assert set(tfds.builder_from_directory(str(dataset.directory)).as_data_source()) == {'job', 'sentence'}
    plan = Plan(dataset.graphs, batch_size=2, seed=0, distractor_probability=0.8)
    packed = PackedPlan(plan, dataset, dataset.manifest['lengths'], devices=1)
    batch = StepReader(dataset, packed, np.arange(2))(0)
    assert batch.texts['alternative'].length.tolist() == [0, 0]


def test_skills_with_the_same_text_are_one_node_with_the_edges_of_both(esco, build):
    write_csv(esco / 'skills_en.csv', [*SKILLS, SKILLS[2] | {'conceptUri': SKILL + 'bake2', 'altLabels': 'do bread'}])
    dataset = build()
    [node] = [node for node in dataset.nodes('skill') if node['text'] == 'bake bread']
    assert node['ids'] == [SKILL + 'bake', SKILL + 'bake2']
    assert {('bake bread', 'do bread'), ('bake bread', 'make loaves')} <= pairs_by_text(dataset)['alternative']


def test_older_releases_with_their_byte_order_marks_and_file_names_read_the_same(esco, build):
    newer = build()
    rows = read_rows(esco / 'occupationSkillRelations_en.csv')
    (esco / 'occupationSkillRelations_en.csv').unlink()
    write_csv(esco / 'occupationSkillRelations.csv', rows, encoding='utf-8-sig')
    write_csv(esco / 'skills_en.csv', SKILLS, encoding='utf-8-sig')
    assert build(output=esco.parent / 'older').fingerprint == newer.fingerprint


def test_the_same_input_and_seed_give_the_same_bytes(esco, build):
    one, other = (build(output=esco.parent / name, held_out_alternatives=0.3) for name in ('one', 'other'))
    assert one.fingerprint == other.fingerprint
    assert one.manifest['files'] == other.manifest['files']


def test_tensorflow_datasets_opens_the_directory_and_record_numbers_are_edge_numbers(dataset):
    source = tfds.builder_from_directory(str(dataset.directory)).as_data_source()
    assert 'tensorflow' not in sys.modules
    nodes = {side: dataset.nodes(side) for side in SIDES}
    assert set(source) == set(GRAPHS)
    for name, graph in dataset.graphs.items():
        assert len(source[name]) == graph.edges
        for edge in (0, graph.edges // 2, graph.edges - 1):
            record = source[name][edge]
            skill, target = graph.edge_skill[edge], graph.edge_target[edge]
            assert (record['edge'], record['skill'], record['target']) == (edge, skill, target)
            assert record['skill_text'].decode() == nodes['skill'][skill]['text']
            assert record['target_text'].decode() == nodes[name][target]['text']
            assert len(record['skill_ids']) == dataset.skill_length[skill]
            assert len(record['target_ids']) == graph.target_length[target]
        assert (np.diff(graph.edge_skill) >= 0).all()


def test_every_record_of_every_split_reads_back_with_its_types_without_tensorflow(dataset):
    expected = dict.fromkeys(('edge', 'skill', 'target'), (np.int64, 0))
    expected |= dict.fromkeys(('skill_ids', 'target_ids'), (np.int64, 1))
    for name, source in tfds.builder_from_directory(str(dataset.directory)).as_data_source().items():
        step = max(1, len(source) // 2000)  # of the larger splits a share
        for record in source.__getitems__(range(0, len(source), step)):
            assert all(isinstance(record.pop(text), bytes) for text in ('skill_text', 'target_text'))
            types = {key: (np.asarray(value).dtype, np.ndim(value)) for key, value in record.items()}
            assert types == expected, name
    assert 'tensorflow' not in sys.modules


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10), st.sampled_from([0, 127, 128, 16383, 2097151, 268435455]))
def test_the_numbers_of_edges_read_back(edges, start):
    read = [tf_example_pb2.Example.FromString(part).features.feature for part in edge_parts(start, start + edges)]
    assert [list(feature) for feature in read] == [['edge']] * edges
    assert [list(feature['edge'].int64_list.value) for feature in read] == [[start + n] for n in range(edges)]


def test_no_held_out_text_reaches_training_on_the_sample(dataset):
    occupations = {row['conceptUri']: row for row in read_rows(SAMPLE / 'occupations_en.csv')}
    skills = {match_key(node['text']) for node in dataset.nodes('skill')}
    targets = {match_key(node['text']) for name in GRAPHS for node in dataset.nodes(name)}
    queries = {match_key(line['text']) for line in dataset.held_out('job')}
    held_out = [row for row in occupations.values() if match_key(row['preferredLabel']) in queries]
    assert len(held_out) == dataset.manifest['held_out']['occupations']['count'] > 10
    for row in held_out:
        titles = [row['preferredLabel'], *row['altLabels'].split('\n')]
        assert not targets & {match_key(title) for title in titles if title.strip()}
    alternatives = {match_key(line['text']) for line in dataset.held_out('alternative')}
    assert len(alternatives) > 100
    assert not alternatives & (targets | skills)


def test_held_out_texts_keep_all_of_their_skills(dataset):
    labels = {r['conceptUri']: r['preferredLabel'] for r in read_rows(SAMPLE / 'skills_en.csv')}
    jobs = {r['conceptUri']: r['preferredLabel'] for r in read_rows(SAMPLE / 'occupations_en.csv')}
    nodes = [node['text'] for node in dataset.nodes('skill')]
    expected = {}
    for row in read_rows(SAMPLE / 'occupationSkillRelations_en.csv'):
        expected.setdefault(jobs[row['occupationUri']], set()).add(labels[row['skillUri']])
    for line in dataset.held_out('job'):
        assert {nodes[skill] for skill in line['skills']} == expected[line['text']]


words = st.text('abAB ', min_size=1, max_size=4).filter(str.strip)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.integers(0, 20).map(str), st.lists(words, min_size=1, max_size=4), min_size=1),
    st.lists(words),
    st.lists(words),
    st.floats(0, 0.99),
    st.integers(0, 5),
)
def test_what_is_held_out_is_the_asked_share_and_never_a_label(titles, alternatives, labels, share, seed):
    held_out = hold_out(titles, alternatives, labels, share, share, seed)
    taken = {match_key(label) for label in labels}
    free = {uri for uri, names in titles.items() if not taken & {match_key(title) for title in names}}
    assert held_out.occupations <= free
    assert len(held_out.occupations) == round(share * len(free))
    keys = {match_key(text) for text in alternatives} - taken
    assert held_out.alternatives <= keys
    assert len(held_out.alternatives) == round(share * len(keys))
    assert all(held_out.forbids(title.upper()) for uri in held_out.occupations for title in titles[uri])
    assert held_out == hold_out(dict(reversed(titles.items())), alternatives[::-1], labels, share, share, seed)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(words, st.just('id'), st.lists(st.integers(0, 5), max_size=4))), st.sets(words))
def test_pairs_are_distinct_and_sorted_and_lose_exactly_the_texts_taken_out(rows, gone):
    def by_text(pairs):
        names = list(pairs.targets)
        return [(int(s), names[t]) for s, t in zip(pairs.skill, pairs.target, strict=True)]

    builder = PairsBuilder()
    for row in rows:
        builder.add(*row)
    pairs = builder.pairs()
    assert sorted(by_text(pairs)) == sorted({(skill, text) for text, _, skills in rows for skill in skills})
    edges = list(zip(pairs.skill.tolist(), pairs.target.tolist(), strict=True))
    assert edges == sorted(set(edges))
    assert sorted(by_text(pairs.without(gone))) == sorted(pair for pair in by_text(pairs) if pair[1] not in gone)


def test_lengths_are_multiples_of_eight_that_hold_nearly_all_texts():
    rng = np.random.default_rng(0)
    tokens = {side: rng.integers(3, 13, 1000) for side in SIDES} | {'sentence': rng.integers(10, 40, 1000)}
    tokens['job'][:3] = 60  # fewer than one in two hundred
    lengths = choose_lengths(tokens)
    assert (lengths['skill'], lengths['job'], lengths['alternative']) == (16, 16, 16)
    assert lengths['sentence'] == 64


# What is refused: what is done to the files or the flags, and what the message must say.


def edit(name, change):
    def apply(esco):
        rows = read_rows(esco / name)
        write_csv(esco / name, change(rows))

    return apply


def drop(column):
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


def setting(row, column, value):
    return lambda rows: [r | {column: value} if n == row else r for n, r in enumerate(rows)]


RELATIONS_FILE = 'occupationSkillRelations_en.csv'
REFUSED = {
    'a missing folder': (
        lambda esco: esco.rename(esco.with_name('gone')),
        {'vacancies': []},
        r'esco: no such directory',
    ),
    'a missing file': (lambda esco: (esco / 'skills_en.csv').unlink(), {}, r'skills_en\.csv: missing'),
    'a missing relations file': (lambda esco: (esco / RELATIONS_FILE).unlink(), {}, r'Relations_en\.csv: missing'),
    'a missing column': (
        edit('skills_en.csv', drop('preferredLabel')),
        {},
        r"skills_en\.csv, line 2: no column 'prefe",
    ),
    'two columns of one name': (
        lambda esco: (esco / 'skills_en.csv').write_text('conceptUri,preferredLabel,preferredLabel\na,b,c\n'),
        {},
        r"skills_en\.csv, line 1: two columns 'preferredLabel', expected one of each name",
    ),
    'a missing relation column': (edit(RELATIONS_FILE, drop('skillUri')), {}, r"line 2: no column 'skillUri'"),
    'an empty file': (lambda esco: (esco / 'occupations_en.csv').write_text(''), {}, r'occupations_en\.csv: empty'),
    'a header alone': (
        lambda esco: (esco / 'skills_en.csv').write_text('conceptUri,preferredLabel\n'),
        {},
        r'skills_en\.csv: empty, it has no rows',
    ),
    'a wrong encoding': (
        lambda esco: (esco / 'skills_en.csv').write_bytes('conceptUri,preferredLabel\na,é\n'.encode('latin-1')),
        {},
        r'skills_en\.csv, line 2: byte 0xe9 is not UTF-8',
    ),
    'an open quote': (
        lambda esco: (esco / 'skills_en.csv').write_text('conceptUri,preferredLabel\na,"b\n'),
        {},
        r'skills_en\.csv, line 2: not CSV from here on',
    ),
    'a row of another width': (
        lambda esco: (esco / 'skills_en.csv').write_text('conceptUri,preferredLabel\na,b,c\n'),
        {},
        r'skills_en\.csv, line 2: 3 cells, but the header has 2',
    ),
    'an unknown skill': (
        edit(RELATIONS_FILE, setting(2, 'skillUri', SKILL + 'x')),
        {},
        r"Relations_en\.csv, line 4: unknown skill 'http://esco/skill/x'",
    ),
    'an unknown occupation': (
        edit(RELATIONS_FILE, setting(0, 'occupationUri', JOB + 'x')),
        {},
        r'Relations_en\.csv, line 2: unknown occupation',
    ),
    'an unknown relation': (
        edit(RELATIONS_FILE, setting(1, 'relationType', 'maybe')),
        {},
        r"line 3: relationType 'maybe', expected essential or optional",
    ),
    'two different rows with one URI': (
        edit('occupations_en.csv', setting(1, 'conceptUri', JOB + 'engineer')),
        {},
        r'occupations_en\.csv, line 4: .*engineer again, with other content than in line 2',
    ),
    'two rows with one URI that differ where nothing is kept': (
        lambda esco: write_csv(esco / 'occupations_en.csv', [r | {'code': n} for n, r in enumerate([*JOBS, JOBS[0]])]),
        {},
        r'occupations_en\.csv, line 5: .*engineer again',
    ),
    'an empty label': (
        edit('occupations_en.csv', setting(0, 'preferredLabel', '  ')),
        {},
        r'occupations_en\.csv, line 2: empty preferredLabel',
    ),
    'an empty URI': (
        edit('skills_en.csv', setting(0, 'conceptUri', '')),
        {},
        r'skills_en\.csv, line 2: empty conceptUri',
    ),
    'no sentences and no descriptions': (
        edit('skills_en.csv', drop('description')),
        {'vacancies': []},
        r'no sentences: ',
    ),
    'too much held out': (
        lambda esco: None,
        {'held_out_occupations': 1.0},
        r'--held_out_occupations=1\.0: expected a sh',
    ),
    'nothing left to train on': (lambda esco: None, {'held_out_occupations': 0.9}, r'the job graph has no pair left'),
    'an output that is there': (lambda esco: (esco.parent / 'out' / 'data').mkdir(parents=True), {}, r'already there'),
    'an output below a file': (lambda esco: (esco.parent / 'out').write_text(''), {}, r'data: cannot be written'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_by_name_and_nothing_is_left_behind(name, esco, build):
    damage, changes, message = REFUSED[name]
    damage(esco)
    before = sorted(esco.parent.rglob('*'))
    with pytest.raises(DataError, match=message) as caught:
        build(**changes)
    assert '\n' not in str(caught.value)
    left = [path for path in sorted(esco.parent.rglob('*')) if path not in before]
    assert [path for path in left if path.name != 'out'] == []


def test_the_command_line_builds_a_dataset_that_keeps_the_command(esco, tokenizer_dir, tmp_path):
    command = ['-m', 'data_prep', 'build', f'--esco={esco}', f'--output={tmp_path / "data"}']
    command += [f'--vacancies={esco / "sentences.csv"}', f'--tokenizer={tokenizer_dir}', '--language=en']
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    manifest = open_dataset(tmp_path / 'data').manifest
    assert manifest['command'] == shlex.join(['python', *command])
    assert manifest['sources'][0]['language'] == 'en'


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path):
    flags = ['build', '--esco=nowhere', f'--output={tmp_path / "data"}']
    done = subprocess.run([sys.executable, '-m', 'data_prep', *flags], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        'error: nowhere: no such directory, expected the folder of an ESCO release\n',
    )


def test_a_tokenizer_that_is_missing_is_named_and_not_the_output(esco, build):
    with pytest.raises(FetchError, match=f'^{re.escape(str(esco))}: .*tokenizer.json'):
        build(tokenizer=str(esco))


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_shows_its_flags(command, capsys):
    with pytest.raises(SystemExit):
        console.parse(importlib.import_module(f'data_prep.{command}').Options, ['--help'])
    assert '--output' in capsys.readouterr().out


def test_help_names_every_command_and_waits_for_no_library():
    code = 'import sys, data_prep.__main__ as m; print(m.usage()); print(sys.modules.keys() & {"jax", "pyarrow"})'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f'  {command} ' in done.stdout for command in COMMANDS)
    assert done.stdout.endswith('set()\n')
