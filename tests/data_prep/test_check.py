"""No leak: which evaluation pairs and queries count as known to training, and what a failed check stops."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import check
from data_prep.check import report
from data_prep.check.evaluations import Evaluation, read_evaluation
from data_prep.check.leaks import find_leaks, leaked_edges
from data_prep.pairs import Pairs
from tests.data_prep.conftest import JOB, pairs_by_text, write_csv, write_jsonl, write_parquet
from uwe_jax.data.text import match_key
from uwe_jax.io import console
from uwe_jax.io.errors import DataError

# Two skills; 'baker' and 'pastry cook' are titles of one occupation, 'clerk' of another and of a vacancy.
SIDES = {
    'skill': {'bake bread': ('s1',), 'SQL': ('s2',), 'juggle': ('s3',)},
    'job': {'baker': (JOB + '1',), 'pastry cook': (JOB + '1',), 'clerk': (JOB + '2', 'vacancy'), 'temp': ('vacancy',)},
    'sentence': {'You bake.': ('vacancy',)},
    'alternative': {'make loaves': ('s1',)},
}
PAIRS = {
    'job': [(0, 0), (0, 1), (1, 1), (1, 2), (1, 3)],  # SQL only of 'pastry cook': a vacancy's, not the occupation's
    'sentence': [(0, 0)],
    'alternative': [(0, 0)],
}
EDGES = {name: (np.array(pairs).T[0], np.array(pairs).T[1]) for name, pairs in PAIRS.items()}


def leaks_of(*pairs, held_out=False):
    [leaks] = find_leaks(SIDES, EDGES, [Evaluation('set', held_out, pairs)])
    return leaks


@pytest.mark.parametrize(
    'pair',
    [
        ('baker', 'bake bread'),
        ('bake bread', 'baker'),
        ('  BAKER', 'Bake\u00a0 bread'),
        ('ｂａｋｅｒ', 'bake bread'),
        ('make loaves', 'bake bread'),
        ('You bake.', 'bake bread'),
    ],
)
def test_a_training_pair_in_an_evaluation_set_fails_in_either_direction_however_it_is_written(pair):
    leaks = leaks_of(('unseen', 'bake bread'), pair)
    assert leaks.same_pair == [pair]
    assert leaks.failed


def test_a_skill_may_be_named_by_its_uri_and_a_target_may_be_a_list():
    assert leaks_of(('baker', 's1')).same_pair == [('baker', 'bake bread')]
    assert leaks_of(('pastry cook', 'SQL, bake bread')).same_pair == [
        ('pastry cook', 'SQL'),
        ('pastry cook', 'bake bread'),
    ]
    assert leaks_of(('pastry cook', '• SQL')).same_pair == [('pastry cook', 'SQL')]
    assert not leaks_of(('baker', 'SQL, unseen')).failed


def test_a_query_alone_is_reported_for_an_outside_set_and_fails_what_was_held_out():
    pairs = [('Clerk', 'bake bread'), ('clerk', 'juggle'), ('unseen', 'bake bread')]
    outside, held_out = leaks_of(*pairs), leaks_of(*pairs, held_out=True)
    assert outside.query_seen == held_out.query_seen == ['Clerk']
    assert (outside.same_pair, outside.failed, held_out.failed) == ([], False, True)
    assert (outside.queries, outside.pairs) == (2, 3)


def test_a_target_alone_is_no_leak():
    assert leaks_of(('unseen', 'baker'), ('unseen', '')).kinds() == [
        ('same pair in training', True, []),
        ('query seen in training', False, []),
        ('linked through an occupation', False, []),
    ]


def test_a_skill_without_a_pair_is_not_in_training():
    assert leaks_of(('juggle', 'x')).query_seen == []


def test_two_titles_of_one_occupation_are_linked_unless_they_are_one_text():
    leaks = leaks_of(
        ('Baker', 'pastry cook'), ('baker', 'clerk'), ('baker', 'SQL'), ('baker', 'Baker'), ('temp', 'clerk')
    )
    assert leaks.linked == [('Baker', 'pastry cook', JOB + '1')]
    assert not leaks.failed


def test_two_skills_are_linked_if_both_are_joined_to_all_titles_of_one_occupation():
    joined = {'job': (np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 1]))}
    evaluation = Evaluation('set', False, [('bake bread', 'Juggle'), ('bake bread', 'SQL')])
    [leaks] = find_leaks(SIDES, joined, [evaluation])
    assert leaks.linked == [('bake bread', 'Juggle', JOB + '1')]


texts = st.sampled_from(['a', 'A', ' a', 'b', 'B ', 'c', 'd'])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(texts, min_size=1, unique=True),
    st.lists(texts, min_size=1, unique=True),
    st.data(),
    st.lists(st.tuples(texts, texts), min_size=1),
)
def test_the_same_pairs_and_queries_are_found_as_by_comparing_all(skills, titles, data, pairs):
    joined = data.draw(st.sets(st.tuples(st.integers(0, len(skills) - 1), st.integers(0, len(titles) - 1)), min_size=1))
    skill, target = np.array(sorted(joined)).T
    sides = {'skill': dict.fromkeys(skills, ()), 'job': dict.fromkeys(titles, ('vacancy',))}
    [leaks] = find_leaks(sides, {'job': (skill, target)}, [Evaluation('set', False, pairs)])
    trained = {frozenset((match_key(skills[s]), match_key(titles[t]))) for s, t in joined}
    seen = frozenset().union(*trained)
    assert {tuple(map(match_key, pair)) for pair in leaks.same_pair} == {
        (match_key(q), match_key(t)) for q, t in pairs if frozenset((match_key(q), match_key(t))) in trained
    }
    assert {match_key(query) for query in leaks.query_seen} == {match_key(q) for q, _ in pairs} & seen


@pytest.mark.parametrize(
    ('name', 'write'), [('e.csv', write_csv), ('e.jsonl', write_jsonl), ('e.parquet', write_parquet)]
)
def test_a_set_is_pairs_or_queries_in_columns_of_any_name(name, write, tmp_path):
    path = tmp_path / name
    write(path, [{'query': 'a', 'target': 'x', 'other': 'u'}, {'query': 'b', 'target': 'y\nz', 'other': "['v', 'w']"}])
    assert read_evaluation(str(path)).pairs == [('a', 'x'), ('b', 'y'), ('b', 'z')]
    assert read_evaluation(f'{path}:other').pairs == [('u', 'x'), ("['v', 'w']", 'y'), ("['v', 'w']", 'z')]
    assert read_evaluation(f'{path}:query:other').pairs == [('a', 'u'), ('b', 'v'), ('b', 'w')]
    write(path, [{'query': 'a'}, {'query': 'a'}, {'query': ' '}])
    assert read_evaluation(str(path)).pairs == [('a', '')]


@pytest.mark.parametrize(
    ('suffix', 'message'),
    [
        ('', r"e\.csv, line 2: no column 'query'; found title, job; name them: --eval=FILE:QUERY:TARGET"),
        (':title:skill', r"e\.csv, line 2: no column 'skill'"),
        (':a:b:c', r'e\.csv:a:b:c: expected FILE, FILE:QUERY or FILE:QUERY:TARGET'),
        ('.gone.csv', r'gone\.csv: cannot be read'),
    ],
)
def test_a_set_that_cannot_be_read_is_refused(suffix, message, tmp_path):
    write_csv(tmp_path / 'e.csv', [{'title': 'a', 'job': 'b'}])
    with pytest.raises(DataError, match=message):
        read_evaluation(f'{tmp_path / "e.csv"}{suffix}')


def run(*flags):
    check.run(console.parse(check.Options, flags), 'test')


@pytest.fixture
def known(esco):
    """An evaluation set with three pairs that are trained on, and one that is not."""
    rows = [{'query': 'Expert', 'target': skill} for skill in ('sql', 'bake bread', 'query languages', 'juggle')]
    write_csv(esco / 'e.csv', rows)
    return esco / 'e.csv'


def test_the_command_prints_what_of_each_set_is_in_training(build, known, capsys):
    shards = build(held_out_alternatives=0.3).directory
    with pytest.raises(DataError):
        run(f'--shards={shards}', f'--eval={known}')
    assert capsys.readouterr().out == (
        f'{known}, an outside set: 1 queries, 4 pairs\n'
        '  same pair in training: 3, FAILS\n'
        '    Expert | sql\n'
        '    Expert | bake bread\n'
        '    Expert | query languages\n'
        '  query seen in training: 1, reported\n'
        '    Expert\n'
        '  linked through an occupation: 0\n'
        'eval/alternative.jsonl: none of 1 queries and 1 pairs is in training\n'
        '2 sets checked, 1 failed\n'
    )


def test_the_command_fails_where_a_pair_is_known_but_writes_its_report(build, known, tmp_path):
    shards = build(held_out_alternatives=0.3).directory
    message = r'^evaluation sets reach training \(.*e\.csv: same pair in training 3\); leave these rows out of the set'
    with pytest.raises(DataError, match=message):
        run(f'--shards={shards}', f'--eval={known}', f'--output={tmp_path / "report.json"}')
    sets = json.loads((tmp_path / 'report.json').read_text())['evaluations']
    pairs = [['Expert', skill] for skill in ('sql', 'bake bread', 'query languages')]
    assert sets[str(known)]['same pair in training'] == {'count': 3, 'examples': pairs}
    assert not sets['eval/alternative.jsonl']['failed']


def test_the_command_passes_where_nothing_is_known(build, capsys):
    run(f'--shards={build(held_out_alternatives=0.3).directory}')
    assert capsys.readouterr().out == 'eval/alternative.jsonl: none of 1 queries and 1 pairs is in training\n'


def test_the_command_refuses_what_is_not_a_dataset(tmp_path):
    with pytest.raises(DataError, match='not a dataset'):
        run(f'--shards={tmp_path}')


def test_an_output_that_cannot_be_written_is_refused_before_the_dataset_is_read(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match=r'report\.json: cannot be written \(Not a directory\); choose another'):
        run(f'--shards={tmp_path}', f'--output={tmp_path / "file" / "report.json"}')


def test_a_build_says_in_its_manifest_what_it_found_of_a_set(esco, build):
    write_csv(esco / 'e.csv', [{'query': 'EXPERT', 'target': 'juggle'}])
    sets = build(evaluations=[str(esco / 'e.csv')]).manifest['leaks']['sets']
    assert sets[str(esco / 'e.csv')]['query seen in training'] == {'count': 1, 'examples': ['EXPERT']}


def test_a_build_that_would_train_on_a_pair_of_a_set_leaves_nothing(esco, build, known):
    with pytest.raises(DataError, match=r'e\.csv: same pair in training 3\); .* as build --drop_leaks does'):
        build(evaluations=[str(known)])
    assert list((esco.parent / 'out').iterdir()) == []


@pytest.fixture
def dropped(esco, build):
    """A dataset without the pairs of an evaluation set, and the dataset with them."""
    rows = [('EXPERT', 'Sql'), ('Expert', 'juggle'), ('you write  sql.', 'SQL'), ('expert', 'bake bread')]
    write_csv(esco / 'e.csv', [{'query': query, 'target': target} for query, target in rows])
    everything = build(held_out_alternatives=0.3, output=esco.parent / 'all')
    return build(held_out_alternatives=0.3, evaluations=[str(esco / 'e.csv')], drop_leaks=True), everything


def test_exactly_the_pairs_of_an_evaluation_set_can_be_dropped(dropped):
    kept, everything = map(pairs_by_text, dropped)
    assert {name: everything[name] - kept[name] for name in everything} == {
        'job': {('SQL', 'expert'), ('bake bread', 'expert')},
        'sentence': {('SQL', 'You write SQL.')},
        'alternative': set(),
    }
    assert [node['text'] for node in dropped[0].nodes('sentence')] == ['You bake and query.']  # no node without an edge


def test_dropped_pairs_are_counted_and_what_remains_is_checked_again(dropped, esco):
    leaks = dropped[0].manifest['leaks']
    assert leaks['pairs_dropped'] == {'job': 2, 'sentence': 1, 'alternative': 0}
    left = leaks['sets'][str(esco / 'e.csv')]
    assert (left['failed'], left['same pair in training']['count']) == (False, 0)
    assert left['query seen in training'] == {'count': 1, 'examples': ['EXPERT']}  # of its pair with another skill
    run(f'--shards={dropped[0].directory}', f'--eval={esco / "e.csv"}')  # raises if a pair is known


def test_dropping_pairs_does_not_change_what_is_held_out(dropped):
    less, everything = dropped
    for name in ('job', 'alternative'):
        assert list(less.held_out(name)) == list(everything.held_out(name))
    assert less.manifest['held_out'] == everything.manifest['held_out']


def test_pairs_can_only_be_dropped_with_a_set_to_look_for(build):
    with pytest.raises(DataError, match='--drop_leaks: expected an evaluation set, named by --eval'):
        build(drop_leaks=True)


def test_dropping_every_pair_of_a_graph_is_refused(esco, build):
    write_csv(esco / 'sentences.csv', [{'sentence': 'You write SQL.', 'skills': 'SQL'}])
    write_csv(esco / 'e.csv', [{'query': 'You write SQL.', 'target': 'SQL'}])
    with pytest.raises(DataError, match='the sentence graph has no pair left'):
        build(evaluations=[str(esco / 'e.csv')], drop_leaks=True)


def test_a_dropped_pair_takes_the_targets_that_nothing_else_joins_with_it():
    pairs = Pairs(SIDES['job'], *(part.astype(np.int32) for part in EDGES['job']))
    leaked = leaked_edges(SIDES['skill'], pairs, [leaks_of(('CLERK', 'sql'), ('baker', 'SQL'))])
    assert leaked.tolist() == [False, False, False, True, False]
    leaked_of_held_out = leaked_edges(SIDES['skill'], pairs, [leaks_of(('clerk', 'SQL'), held_out=True)])
    assert not leaked_of_held_out.any()  # a leak of what was held out is refused, not dropped
    kept = pairs.with_edges(~leaked)
    assert list(kept.targets) == ['baker', 'pastry cook', 'temp']
    assert list(zip(kept.skill.tolist(), kept.target.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 1), (1, 2)]


def test_the_report_shows_a_few_examples_of_each_kind():
    known = [('baker', 'bake bread'), ('pastry cook', 'bake bread'), ('pastry cook', 'SQL'), ('clerk', 'SQL')]
    known += [('temp', 'SQL'), ('You bake.', 'bake bread'), ('make loaves', 'bake bread')]
    lines = report.text([leaks_of(*known)]).splitlines()
    assert lines[1:7] == [
        '  same pair in training: 7, FAILS',
        *(f'    {query} | {target}' for query, target in known[:5]),
    ]
    assert lines[7] == '  query seen in training: 6, reported'
