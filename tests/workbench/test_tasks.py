"""Tasks: what of each source's files becomes a query, a target and a right answer, and what is refused."""

import csv

import pytest

from data_prep import build
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.workbench.registry import OTHER_SIZE, PLACES, TASKS, load_tasks, task_names
from uwe_jax.workbench.sources.hub import read_rows


@pytest.fixture
def data(tmp_path):
    """A folder with the files of all kinds of data, in the layouts in which their users get them."""
    skill_columns = ('conceptUri', 'preferredLabel', 'altLabels', 'description')
    skills = [
        ('s1', 'bake bread', 'make loaves\n\n bake loaves \nx\nbake bread', ''),
        ('s2', 'SQL', 'query language', 'A language,\nfor queries.'),
        ('s3', 'cook', 'make loaves\nprepare food\nboil', ''),
        ('s4', 'juggle', '', ''),
    ]
    occupations = [('o1', 'baker', 'bread maker'), ('o2', 'data engineer', '')]
    relations = [
        ('o1', 'essential', 's1'),
        ('o1', 'optional', 's3'),
        ('o2', 'essential', 's2'),
        ('o9', 'essential', 's2'),
    ]
    for release, suffix in (('esco_1.2.0', '_en'), ('esco_1.1.0', '')):
        write(tmp_path / release / 'skills_en.csv', skill_columns, skills)
        write(tmp_path / release / 'occupations_en.csv', ('conceptUri', 'preferredLabel', 'altLabels'), occupations)
        columns = ('occupationUri', 'relationType', 'skillUri')
        write(tmp_path / release / f'occupationSkillRelations{suffix}.csv', columns, relations)
    workbench = tmp_path / 'workbench'
    write(workbench / 'esco_1.0_occupations_en.csv', ('conceptUri', 'preferredLabel'), [o[:2] for o in occupations])
    titles = [('Baker (m/f)', 'o1', 'baker'), ('ETL developer', 'o2', 'data engineer'), ('Baker (m/f)', 'o1', 'baker')]
    write(workbench / 'jobbert_titles_val.csv', ('vacancyTitle', 'conceptUri', 'escoJobTitle'), titles)
    labels = [
        ('You bake.', 'bake', 'bake bread'),
        ('You bake.', 'bake', 'bake bread'),
        ('You bake.', 'cook', 'cook'),
        ('You are nice.', 'nice', 'LABEL NOT PRESENT'),
        ('Something.', 'it', 'UNDERSPECIFIED'),
    ]
    for name in ('house_validation', 'tech_validation', 'techwolf_test'):
        write(workbench / f'skill_extraction_{name}.csv', ('sentence', 'span', 'label'), labels)
    skillskape = [('0', 'You query.', "['SQL', 'cook', 'no such skill']"), ('1', 'Nothing.', "['UNK']")]
    write(workbench / 'skillskape_dev.csv', ('', 'sentence', 'skills'), skillskape)
    pairs = [(f'a{n}', f'b{n}', str(int(n < 10))) for n in range(20)]
    write(workbench / 'skillmatch_1k.csv', ('skill_a', 'skill_b', 'related'), pairs)
    technologies = [('11-1', 'Bakers', 'Excel'), ('11-1', 'Bakers', 'Excel'), ('15-1', 'Developers', 'Git')]
    write(
        tmp_path / 'onet' / 'technology_skills.csv',
        ('Code', 'Title', 'Example'),
        [*technologies, ('15-1', 'Developers', 'Excel')],
    )
    return tmp_path


def write(path, columns, rows):
    path.parent.mkdir(exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([columns, *rows])


def answers(task):
    """(query, right targets) in words."""
    return [(q, sorted(task.targets[t] for t in right)) for q, right in zip(task.queries, task.positives, strict=True)]


def load(name, data, **places):
    [task] = load_tasks([name], {'': str(data), **places})
    return task


def test_each_task_is_made_of_the_files_of_its_source(data):
    tasks = {name: load(name, data) for name in TASKS}
    assert answers(tasks['job_to_skill']) == [('baker', ['bake bread', 'cook']), ('data engineer', ['SQL'])]
    assert answers(tasks['skill_to_job']) == [
        ('bake bread', ['baker']),
        ('cook', ['baker']),
        ('SQL', ['data engineer']),
    ]
    assert tasks['job_to_skill'].targets == ['SQL', 'bake bread', 'cook', 'juggle']
    titles = [('Baker (m/f)', ['baker']), ('ETL developer', ['data engineer'])]
    assert answers(tasks['job_normalisation']) == titles
    for name in ('house', 'tech', 'techwolf'):
        assert answers(tasks[name]) == [('You bake.', ['bake bread', 'cook'])]
    assert answers(tasks['skillskape']) == [('You query.', ['SQL', 'cook'])]
    assert answers(tasks['onet_job_to_skill']) == [('Bakers', ['Excel']), ('Developers', ['Excel', 'Git'])]
    assert answers(tasks['onet_skill_to_job']) == [('Excel', ['Bakers', 'Developers']), ('Git', ['Developers'])]
    assert [name for name, task in tasks.items() if task.skills == 'query'] == ['skill_to_job', 'onet_skill_to_job']


def test_the_first_alternative_of_each_skill_is_for_validation_and_not_in_the_test(data):
    # 'make loaves' is the first of two skills; a single letter and the label itself are no alternatives.
    assert answers(load('skill_normalisation', data)) == [
        ('bake loaves', ['bake bread']),
        ('prepare food', ['cook']),
        ('boil', ['cook']),
    ]


def test_skill_similarity_ranks_the_skills_of_all_pairs_for_nine_tenths_of_the_related_ones(data):
    task = load('skill_similarity', data)
    assert (len(task.queries), len(task.targets)) == (9, 40)
    assert all(right == [query.replace('a', 'b')] for query, right in answers(task))
    sklearn = pytest.importorskip('sklearn.model_selection', reason='comes with the torch extra')
    _, expected = sklearn.train_test_split([f'a{n}' for n in range(10)], test_size=0.9, random_state=42)
    assert task.queries == expected


def test_a_size_other_than_the_published_one_is_a_note(data):
    task = load('house', data)
    assert task.expected == (262, 13891)
    assert task.note == OTHER_SIZE
    skillskape = load('skillskape', data)
    assert skillskape.expected is None
    assert skillskape.note == "labels that are not in the ESCO release: 1, such as 'no such skill'"


def test_skills_of_one_name_are_one_target_with_the_answers_of_all(data):
    columns = ('conceptUri', 'preferredLabel', 'altLabels')
    skills = [('s1', 'cook', 'boil\nfry'), ('s2', 'bake', ''), ('s3', 'cook', 'roast'), ('s4', 'cook', '')]
    write(data / 'esco_1.2.0' / 'skills_en.csv', columns, skills)
    jobs = load('skill_to_job', data)
    assert answers(jobs) == [('cook', ['baker']), ('bake', ['data engineer'])]
    assert load('job_to_skill', data).targets == ['bake', 'cook']
    assert answers(load('skill_normalisation', data)) == [('fry', ['cook']), ('roast', ['cook'])]


def test_any_csv_of_pairs_is_a_task(tmp_path):
    write(tmp_path / 'mine.csv', ('query', 'target'), [('a', 'x'), ('b', 'y'), ('a', 'y'), ('a', 'x')])
    [task] = load_tasks([f'csv:{tmp_path / "mine.csv"}'], {})
    assert (task.name, task.targets) == ('mine', ['x', 'y'])
    assert answers(task) == [('a', ['x', 'y']), ('b', ['y'])]
    [turned] = load_tasks([f'csv:{tmp_path / "mine.csv"}:target:query'], {})
    assert (turned.name, answers(turned)) == ('mine_target_to_query', [('x', ['a']), ('y', ['a', 'b'])])


def test_the_target_space_of_any_csv_can_be_a_second_file(tmp_path):
    mine, space = tmp_path / 'mine.csv', tmp_path / 'space.csv'
    write(mine, ('query', 'target'), [('a', 'x'), ('b', 'y')])
    write(space, ('target',), [('z',), ('y',), ('x',), ('y',)])
    [task] = load_tasks([f'csv:{mine}:query:target:{space}'], {})
    assert (task.targets, answers(task)) == (['z', 'y', 'x'], [('a', ['x']), ('b', ['y'])])
    write(space, ('target',), [('x',)])
    with pytest.raises(ValueError, match=f"{mine}, line 3: target 'y' is not one of the 1 of {space}"):
        load_tasks([f'csv:{mine}:query:target:{space}'], {})


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('house', ['house']),
        ('house, tech,csv:a.csv', ['house', 'tech', 'csv:a.csv']),
        ('csv:/a,b/c.csv,house', ['csv:/a,b/c.csv', 'house']),
        ('held_out:/a,b,c,csv:d,e.csv:query:target, house', ['held_out:/a,b,c', 'csv:d,e.csv:query:target', 'house']),
        ('csv:/jobs,house/c.csv', ['csv:/jobs,house/c.csv']),
        ('csv:/jobs,house,tech', ['csv:/jobs', 'house', 'tech']),
    ],
)
def test_a_path_in_the_list_of_tasks_may_contain_commas(text, names):
    assert task_names(text) == names


def test_onets_own_text_files_are_the_same_tasks(data):
    expected = {name: answers(load(name, data)) for name in ('onet_job_to_skill', 'onet_skill_to_job')}
    folder = data / 'text'
    folder.mkdir()
    (folder / 'Technology Skills.txt').write_text(
        'O*NET-SOC Code\tExample\tCommodity Code\tHot Technology\n'
        '11-1\tExcel\t4\tY\n11-1\tExcel\t4\tY\n15-1\tGit\t5\tN\n15-1\tExcel\t4\tY\n'
    )
    titles = 'O*NET-SOC Code\tTitle\tDescription\n11-1\tBakers\tBake, and sell.\n15-1\tDevelopers\tWrite "code".\n'
    (folder / 'Occupation Data.txt').write_text(titles)
    assert {name: answers(load(name, data, onet=str(folder))) for name in expected} == expected


def test_onets_table_without_titles_is_refused_with_a_remedy(data):
    write(data / 'onet' / 'technology_skills.csv', ('O*NET-SOC Code', 'Example'), [('11-1', 'Excel')])
    with pytest.raises(
        ValueError, match=r"no column 'Title'; .*; expected it there, or O\*NET's text files instead: Tech"
    ):
        load('onet_job_to_skill', data)


@pytest.mark.parametrize('separator', ['\r', '\x0b', '\u2028'])
def test_the_release_is_read_as_data_prep_reads_it(data, separator):
    columns = ('conceptUri', 'preferredLabel', 'altLabels')
    write(data / 'esco_1.2.0' / 'skills_en.csv', columns, [('s1', 'SQL', separator.join(['one', 'two', 'three']))])
    assert answers(load('skill_normalisation', data)) == [('two', ['SQL']), ('three', ['SQL'])]
    write(data / 'workbench' / 'esco_1.0_occupations_en.csv', columns[:2], [('o1', ' baker '), ('o2', 'data engineer')])
    assert load('job_normalisation', data).targets == ['baker', 'data engineer']


def test_what_is_held_out_of_a_dataset_is_a_task(small_dataset_dir):
    names = [task.name for task in load_tasks([f'held_out:{small_dataset_dir}'], {})]
    assert names[:2] == ['held_out_job_to_skill', 'held_out_alternative_to_skill']


def test_a_dataset_that_holds_nothing_out_is_refused(data, base_model, tmp_path):
    relations = [('o1', 'essential', 's1'), ('o2', 'essential', 's2')]
    columns = ('occupationUri', 'relationType', 'skillUri')
    write(data / 'esco_1.2.0' / 'occupationSkillRelations_en.csv', columns, relations)
    options = build.Options(
        esco=data / 'esco_1.2.0',
        output=tmp_path / 'dataset',
        held_out_occupations=0.0,
        held_out_alternatives=0.0,
        tokenizer=str(base_model),
    )
    build.run(options, 'test')
    with pytest.raises(ValueError, match=f'{options.output}: nothing was held out; expected a dataset built with'):
        load_tasks([f'held_out:{options.output}'], {})


ESCO, LABELLED = ('conceptUri', 'preferredLabel', 'altLabels'), ('sentence', 'label')
HOUSE, SKILLSKAPE = PLACES['house'], PLACES['skillskape']


@pytest.mark.parametrize(
    ('name', 'file', 'columns', 'row', 'message'),
    [
        ('job_to_skill', 'esco_1.2.0/skills_en.csv', ESCO[::2], ('s', ''), "line 2: no column 'preferredLabel'; found"),
        ('job_to_skill', 'esco_1.2.0/skills_en.csv', ESCO, ('s', ' ', ''), 'line 2: empty preferredLabel of s'),
        (
            'job_normalisation',
            PLACES['jobbert'],
            ('vacancyTitle', 'escoJobTitle'),
            ('t', 'pilot'),
            "'pilot' is not one",
        ),
        ('house', HOUSE, LABELLED, ('You.', 'LABEL NOT PRESENT'), 'task house: 0 queries'),
        ('house', HOUSE, LABELLED, ('', 'cook'), "line 2: sentence is '' .*, expected text"),
        (
            'skillskape',
            SKILLSKAPE,
            ('sentence', 'skills'),
            ('You.', '[SQL]'),
            r"skills is '\[SQL\]', which looks like a list",
        ),
        ('skillskape', SKILLSKAPE, ('sentence', 'skills'), ('You.', '[7]'), r"skills is '\[7\]' .*, expected a list"),
        (
            'skill_similarity',
            PLACES['skillmatch'],
            ('skill_a', 'skill_b', 'related'),
            ('a', 'b', 'yes'),
            "related is 'yes', expected 0 or 1",
        ),
        (
            'onet_job_to_skill',
            'onet/technology_skills.csv',
            ('Title', 'Example'),
            ('t',),
            'line 2: 1 cells, but the header has 2',
        ),
    ],
)
def test_a_file_that_is_not_as_expected_is_refused_with_its_row(data, name, file, columns, row, message):
    write(data / file, columns, [row])
    with pytest.raises(ValueError, match=message):
        load(name, data)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'empty, it has no rows'),
        (b'query,target\n', 'empty, it has no rows'),
        (b'query,target\na,x\nb,"y', 'line 3: not CSV from here on'),
        (b'query,target\na,x\nb,y,z\n', 'line 3: 3 cells, but the header has 2'),
        (b'query,target\n\xe9,x\n', 'line 2: byte 0xe9 is not UTF-8'),
        (b'query,answer\na,x\n', "line 2: no column 'target'; found query, answer"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path, content, message):
    file = tmp_path / 'pairs.csv'
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f'{file}(, |: ){message}'):
        load_tasks([f'csv:{file}'], {})


def test_datasets_of_the_hub_are_tables_too(tmp_path):
    pytest.importorskip('datasets', reason='comes with the workbench extra')
    write(tmp_path / 'house' / 'test.csv', ('sentence', 'label'), [('You cook.', 'cook'), ('You bake.', '')])
    rows = read_rows(f'{tmp_path / "house"}@test')
    assert next(rows).required_text('sentence') == 'You cook.'
    with pytest.raises(ValueError, match=r'house@test, row 2: label is .*None.*, expected text'):
        next(rows).required_text('label')
    with pytest.raises(ValueError, match=r'cannot be loaded .*; give its file with --data=NAME=FILE'):
        list(read_rows(f'{tmp_path / "house"}@validation'))


@pytest.mark.parametrize(
    ('tasks', 'data', 'message'),
    [
        (['job_to_skill'], {}, 'task job_to_skill: no esco; give --data=esco=PATH, the folder of ESCO'),
        (['job_to_skill'], {'esco': 'none'}, 'none: no such directory, expected the folder of an ESCO release'),
        (['jobs'], {}, "task 'jobs': expected job_to_skill, .*, held_out:DATASET or csv:PATH"),
        ([], {'escos': 'x'}, "data 'escos': expected one of esco, "),
        ([], {'': 'none'}, '--data=none: no such folder; expected a folder, or NAME=PATH'),
        (['csv:none.csv'], {}, 'none.csv: not a file; expected a table, or NAME@SPLIT'),
    ],
)
def test_what_is_not_there_is_refused(tasks, data, message):
    with pytest.raises(ValueError, match=message):
        load_tasks(tasks, data)


@pytest.mark.parametrize(
    ('queries', 'targets', 'positives', 'message'),
    [
        ([], ['x'], [], '0 queries and 0 lists of positives'),
        (['a'], ['x'], [[0], [0]], '1 queries and 2 lists of positives'),
        (['a', 'b'], ['x'], [[0], []], "query 'b' has no right target"),
        (['a'], ['x'], [[1]], 'a right target outside the 1 targets'),
        (['a', ' '], ['x'], [[0], [0]], "query 1 is ' ', expected a text"),
        (['a'], ['x', None], [[0]], 'target 1 is None, expected a text'),
        (['a'], ['x', 'y', 'x'], [[0]], "target 'x' appears 2 times in the target space"),
    ],
)
def test_what_is_not_a_task_is_refused(queries, targets, positives, message):
    with pytest.raises(ValueError, match=message):
        RankingTask('t', queries, targets, positives)
