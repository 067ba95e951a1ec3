"""Vacancies in: what a row joins, how skills are found by name, and what is repaired or refused."""

import html
import json
import resource

import pytest

from data_prep.sentences import Names, split_sentences, without_tags
from data_prep.skill_names import SkillNames
from data_prep.vacancies import Columns
from tests.data_prep.conftest import (
    JOB,
    JOBS,
    SENTENCES,
    SKILL,
    SKILLS,
    pairs_by_text,
    write_csv,
    write_jsonl,
    write_parquet,
)
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import Concept

VACANCY = {
    'title': 'Baker and clerk',
    'description': 'We bake bread.\nBake  Bread with us! You know Sql: or SQL. No query languages?\nCall.',
    'skills': ['bake bread', SKILL + 'sql'],
    'language': 'en',
    'url': 'https://example.com/1',
    'date': '2026-01-31',
}


def test_a_vacancys_skills_join_its_title_and_those_sentences_of_its_description_that_name_them(esco, build):
    write_jsonl(esco / 'scraped.jsonl', [VACANCY, VACANCY | {'description': 'We look for you.'}])
    dataset = build(vacancies=[str(esco / 'scraped.jsonl')])
    pairs = pairs_by_text(dataset)
    assert {pair for pair in pairs['job'] if pair[1] == 'Baker and clerk'} == {
        ('bake bread', 'Baker and clerk'),
        ('SQL', 'Baker and clerk'),
    }
    assert pairs['sentence'] == {
        ('bake bread', 'We bake bread.'),
        ('bake bread', 'Bake Bread with us!'),
        ('SQL', 'You know Sql: or SQL.'),  # not 'No query languages?', a skill that the vacancy does not have
    }
    left_out = dataset.manifest['repairs']['description that names none of its skills, left out']
    assert left_out == {'count': 1, 'examples': ['scraped.jsonl, line 2']}


def test_every_item_of_a_list_is_a_sentence_even_if_all_stand_on_one_line(esco, build):
    duties = ' '.join(f'• support the team in its duties number {n}' for n in range(60))
    rows = [
        {'title': 'a', 'skills': ['SQL'], 'description': f'Your tasks: {duties} • write SQL • talk'},
        {'title': 'b', 'skills': ['bake bread'], 'description': 'Tasks\n\nYou bake bread\nYou talk'},
    ]
    write_jsonl(esco / 'v.jsonl', rows)
    dataset = build(vacancies=[str(esco / 'v.jsonl')])
    assert pairs_by_text(dataset)['sentence'] == {('SQL', 'write SQL'), ('bake bread', 'You bake bread')}
    assert not [kind for kind in dataset.manifest['repairs'] if 'dropped' in kind and 'sentence' in kind]


HTML = '<p>You bake\nbread.</p><!-- x --><h2 class="a">Tasks</h2><UL><li>write <b>SQL</b><li>R&amp;D</ul>List<String>'


@pytest.mark.parametrize('description', [HTML, html.escape(HTML)])
def test_a_description_in_html_loses_its_tags_and_keeps_its_lists(esco, build, description):
    write_jsonl(esco / 'v.jsonl', [{'title': 'a', 'skills': ['SQL', 'bake bread'], 'description': description}])
    dataset = build(vacancies=[str(esco / 'v.jsonl')])
    assert pairs_by_text(dataset)['sentence'] == {('SQL', 'write SQL'), ('bake bread', 'You bake bread.')}
    assert dataset.manifest['repairs']['description in HTML, its tags removed']['count'] == 1
    sentences = list(split_sentences(without_tags(description)))
    assert sentences == ['You bake bread.', 'Tasks', 'write SQL', 'R&D', 'List<String>']


def test_text_without_tags_stays_as_it_is_but_for_entities():
    for text in ('<!--' * 10_000, 'List<String>', 'a < b and c > d', 'AT&T &copy', '<3 SQL\n<at> you', '<Baker>'):
        assert without_tags(text) == text
    assert without_tags('R&amp;D&#58; R&nbsp;and SQL') == 'R&D: R\xa0and SQL'


def test_what_a_page_does_not_show_is_no_text():
    shown = without_tags('<p>Go</p><style>.sql{color: red} SQL</style><script>R()</script><o:p></o:p><main>Ask</main>')
    assert shown.split() == ['Go', 'Ask']


def test_a_skill_that_a_sentence_names_only_where_it_is_cut_off_is_no_pair(esco, build):
    sentence = f'You bake bread {"and support all of our teams in their daily work " * 9}and write SQL.'
    rows = [
        {'title': 'a', 'skills': ['SQL', 'bake bread'], 'description': sentence},
        {'title': 'b', 'skills': ['SQL'], 'description': sentence},
        {'title': 'c', 'skills': ['SQL'], 'description': 'You write SQL ' * 500},
    ]
    write_jsonl(esco / 'v.jsonl', rows)
    dataset = build(vacancies=[str(esco / 'v.jsonl')])
    assert pairs_by_text(dataset)['sentence'] == {('bake bread', sentence)}
    repairs = {kind: repair['examples'] for kind, repair in dataset.manifest['repairs'].items()}
    assert repairs['skill named in the part of a sentence that is cut off, no pair'] == [
        'v.jsonl, line 1',
        'v.jsonl, line 2',
    ]
    assert len(repairs['sentence of more than 2000 characters, dropped']) == 1
    assert 'description that names none of its skills, left out' not in repairs  # it does name one


def test_a_tagged_sentences_skills_join_the_sentence_and_its_vacancys_title(esco, build):
    rows = [
        {'vacancy': 'a', 'title': 'Clerk', 'sentence': 'You ask.', 'skills': [SKILL + 'sql'], 'scores': [0.7]},
        {'vacancy': 'a', 'title': 'Clerk', 'sentence': 'You bake.', 'skills': [SKILL + 'bake'], 'scores': [0.6]},
        {'vacancy': 'a', 'title': 'Clerk', 'sentence': 'You call.', 'skills': [], 'scores': []},
    ]
    write_jsonl(esco / 'piece-0.jsonl', rows[:1])
    write_jsonl(esco / 'piece-1.jsonl', rows[1:])
    (esco / 'piece-2.jsonl').touch()
    dataset = build(vacancies=[str(esco / 'piece-*.jsonl')])
    pairs = pairs_by_text(dataset)
    assert pairs['sentence'] == {('SQL', 'You ask.'), ('bake bread', 'You bake.')}
    assert {pair for pair in pairs['job'] if pair[1] == 'Clerk'} == {('SQL', 'Clerk'), ('bake bread', 'Clerk')}
    assert dataset.manifest['repairs']['empty file, passed over']['count'] == 1
    assert sorted(dataset.manifest['sources'][-1]['files']) == ['piece-0.jsonl', 'piece-1.jsonl', 'piece-2.jsonl']
    assert [node['ids'] for node in dataset.nodes('job') if node['text'] == 'Clerk'] == [['vacancy']]


def test_without_a_sentence_among_the_vacancies_the_skills_descriptions_stand_in(esco, build):
    write_jsonl(esco / 'titles.jsonl', [{'title': 'Clerk', 'skills': ['SQL']}])
    dataset = build(vacancies=[str(esco / 'titles.jsonl')])
    assert ('SQL', 'To ask a database.') in pairs_by_text(dataset)['sentence']
    assert 'descriptions' in dataset.manifest['sources'][1]['from']


@pytest.mark.parametrize(
    ('name', 'write'), [('s.csv', write_csv), ('s.jsonl', write_jsonl), ('s.parquet', write_parquet)]
)
def test_tables_of_every_format_and_with_other_column_names_say_the_same(name, write, esco, build):
    def skills(cell):
        return cell if name == 's.csv' else cell.split('\n')

    write(esco / name, [{'text': s, 'esco': skills(k), 'role': 'clerk'} for s, k in SENTENCES])
    columns = Columns(sentence='text', skills='esco', title='role')
    pairs = pairs_by_text(build(vacancies=[str(esco / name)], columns=columns))
    assert pairs['sentence'] == pairs_by_text(build(output=esco.parent / 'csv'))['sentence']
    assert {skill for skill, title in pairs['job'] if title == 'clerk'} == {'SQL', 'query languages', 'bake bread'}


def test_a_cell_may_hold_its_skills_as_a_written_list(esco, build):
    write_csv(esco / 's.csv', [{'sentence': 'Ask.', 'skills': "['SQL', 'bake bread']"}])
    pairs = pairs_by_text(build(vacancies=[str(esco / 's.csv')]))
    assert pairs['sentence'] == {('SQL', 'Ask.'), ('bake bread', 'Ask.')}


def test_synthetic_titles_join_their_skill_and_real_ones_are_left_to_their_sources(esco, build):
    rows = [
        {'skill': SKILL + 'alone', 'title': 'circus artist', 'source': 'synthetic', 'model': 'x'},
        {'skill': SKILL + 'alone', 'title': 'street performer', 'source': 'real', 'model': None},
        {'skill': SKILL + 'bake', 'title': 'baker', 'source': 'synthetic', 'model': 'x'},
    ]
    write_jsonl(esco / 'titles.jsonl', rows)
    dataset = build(synthetic=[str(esco / 'titles.jsonl')])
    assert {pair for pair in pairs_by_text(dataset)['job'] if pair[0] == 'juggle'} == {('juggle', 'circus artist')}
    ids = {node['text']: node['ids'] for node in dataset.nodes('job')}
    assert ids['circus artist'] == ['synthetic']
    assert ids['baker'] == [JOB + 'baker', 'synthetic']


def test_held_out_titles_reach_training_neither_from_vacancies_nor_from_synthetic_titles(esco, build):
    rows = [{'title': t, 'skills': ['SQL']} for t in ('BAKER', 'Data  Engineer', 'Expert', 'clerk')]
    write_jsonl(esco / 'v.jsonl', rows)
    write_jsonl(esco / 't.jsonl', [{'skill': SKILL + 'sql', 'title': r['title'], 'source': 'synthetic'} for r in rows])
    files = {'vacancies': [str(esco / 'v.jsonl')], 'synthetic': [str(esco / 't.jsonl')], 'held_out_occupations': 0.5}
    dataset = build(**files)
    [query] = [line['text'] for line in dataset.held_out('job')]
    other = {'baker': 'Data Engineer', 'data engineer': 'BAKER'}[query]
    titles = {node['text'] for node in dataset.nodes('job')}
    assert {other, 'clerk'} <= titles
    assert not titles & {'BAKER', 'Data Engineer', 'Expert', 'expert', query} - {other}


def names_of(*skills):
    concepts = {
        uri: Concept(uri, label, alternatives, '')
        for uri, (label, *alternatives) in zip('abcdef', skills, strict=False)
    }
    number = {skill.label: node for node, skill in enumerate(concepts.values())}
    return SkillNames(concepts, number)


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('a', [0]),  # a URI
        ('Java', [0]),
        ('java', [1]),  # case tells apart what it can
        ('JAVA', []),  # and else the name is ambiguous
        ('ruby', [2]),
        ('  Ruby\u00a0', [2]),
        ('ｒｕｂｙ', [2]),
        ('coffee', [1]),
        ('roast', []),  # an alternative of two skills
        ('Jewels', [2]),
        ('gems', [2]),  # an alternative as it is written, before a preferred label in another case
        ('Gems', [3]),
        ('GEMS', [3]),
        ('perl', []),
    ],
)
def test_a_name_means_a_skill_where_one_kind_of_label_says_so_of_one_skill(name, meant):
    names = names_of(('Java', 'roast'), ('java', 'coffee', 'roast'), ('ruby', 'jewels', 'gems'), ('Gems',))
    assert names.nodes([name]) == meant


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('Java, ruby', [0, 2]),
        ('Java;Jewels', [0, 2]),
        (' coffee | Gems ', [1, 3]),
        ('Java,', [0]),
        ('jam, bread', [4]),  # the name of one skill
        ('• Java ▪ ruby', [0, 2]),
        ('- ruby', [2]),
        ('Java, JAVA', [0]),  # all are names, and one is ambiguous
        ('Java, perl', []),
        ('perl, lisp', []),
        (', ,', []),
    ],
)
def test_a_name_that_means_no_skill_is_a_list_where_all_of_its_parts_are_names(name, meant):
    names = names_of(('Java', 'roast'), ('java', 'coffee'), ('ruby', 'jewels'), ('Gems',), ('jam, bread',))
    assert names.nodes([name]) == meant
    assert names.lists_split == (len(meant) > 1 or name in ('Java,', '- ruby', 'Java, JAVA'))
    assert [miss['name'] for miss in names.unmatched()] == (
        ['JAVA'] if name == 'Java, JAVA' else [] if meant else [name]
    )


def test_names_without_one_skill_are_listed_with_their_counts_and_what_they_could_mean():
    names = names_of(('Java',), ('java',))
    assert names.nodes(['JAVA', 'Java', 'perl', 'perl', 'Java']) == [0]
    assert names.matched == 2
    assert names.unmatched() == [
        {'name': 'perl', 'count': 2, 'could_mean': []},
        {'name': 'JAVA', 'count': 1, 'could_mean': ['Java', 'java']},
    ]


def test_unmatched_names_are_a_file_of_the_dataset(esco, build):
    write_jsonl(esco / 'v.jsonl', [{'title': 'clerk', 'skills': ['SQL', 'flying', 'flying']}])
    dataset = build(vacancies=[str(esco / 'v.jsonl')])
    lines = (dataset.directory / 'unmatched_skills.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{'name': 'flying', 'count': 2, 'could_mean': []}]
    assert 'unmatched_skills.jsonl' in dataset.manifest['files']
    assert dataset.manifest['skill_names']['unknown'] == {'count': 2, 'distinct': 1, 'examples': ['flying']}


def test_sentences_end_at_their_marks_and_at_line_breaks_but_not_at_abbreviations():
    text = 'You know e.g. SQL. You bake!\n- 5 years of practice\n\n- a van'
    assert list(split_sentences(text)) == ['You know e.g. SQL.', 'You bake!', '- 5 years of practice', '- a van']
    assert list(split_sentences('Das ist z.B. gut. Ja.', 'DE')) == ['Das ist z.B. gut.', 'Ja.']
    assert list(split_sentences('So. Then.', 'no such language')) == ['So.', 'Then.']


@pytest.mark.parametrize(
    ('text', 'sentences'),
    [
        ('Tasks: • write SQL • bake', ['Tasks:', 'write SQL', 'bake']),
        ('•write SQL•bake', ['write SQL', 'bake']),
        ('Tasks: ▪ a. b\n◦ c', ['Tasks:', 'a. b', 'c']),
        ('Tasks: \uf0b7 a \uf0a7 b', ['Tasks:', 'a', 'b']),
        ('✓ a ✓ b', ['a', 'b']),
        ('✔️ a ✅ b 🔹c 👉 d', ['a', 'b', 'c', 'd']),
        ('1️⃣ a 2️⃣ b', ['a', 'b']),
        ('We ❤ 3 cats 🚀', ['We ❤ 3 cats 🚀']),
        ('Köln · Vollzeit', ['Köln', 'Vollzeit']),
        ('* a * b', ['a', 'b']),
        ('Mitarbeiter*innen col·laboren', ['Mitarbeiter*innen col·laboren']),
        ('SQL - the language - and 2 - 3 years', ['SQL - the language - and 2 - 3 years']),
    ],
)
def test_a_bullet_ends_a_sentence(text, sentences):
    assert list(split_sentences(text)) == sentences


def test_a_release_in_another_language_is_cut_into_sentences_by_its_rules(esco, build):
    write_csv(
        esco / 'skills_de.csv', [SKILLS[2] | {'preferredLabel': 'Brot backen', 'description': 'Brot, z.B. Roggen. Ja.'}]
    )
    for name in ('occupations', 'occupationSkillRelations'):
        (esco / f'{name}_en.csv').rename(esco / f'{name}.csv')
    relation = {'occupationUri': JOB + 'baker', 'relationType': 'essential', 'skillUri': SKILL + 'bake'}
    write_csv(esco / 'occupationSkillRelations.csv', [relation])
    dataset = build(language=('de',), vacancies=())
    assert pairs_by_text(dataset)['sentence'] == {('Brot backen', 'Brot, z.B. Roggen.'), ('Brot backen', 'Ja.')}
    assert dataset.manifest['sources'][0]['language'] == 'de'
    write_jsonl(
        esco / 'v.jsonl', [{'title': 'a', 'skills': ['Brot backen'], 'description': 'Gut z.B. Brot backen. Ja.'}]
    )
    dataset = build(language=('de',), vacancies=[str(esco / 'v.jsonl')], output=esco.parent / 'vacancies')
    assert pairs_by_text(dataset)['sentence'] == {('Brot backen', 'Gut z.B. Brot backen.')}


def test_of_several_languages_the_skills_are_one_with_the_edges_of_all(esco, build):
    write_csv(
        esco / 'skills_de.csv', [s | {'preferredLabel': f'{s["preferredLabel"]}-de', 'altLabels': ''} for s in SKILLS]
    )
    write_csv(
        esco / 'occupations_de.csv',
        [j | {'preferredLabel': f'{j["preferredLabel"]}-de', 'altLabels': ''} for j in JOBS],
    )
    dataset = build(language=('en', 'de'))
    pairs = pairs_by_text(dataset)
    assert {('bake bread', 'baker'), ('bake bread', 'baker-de')} <= pairs['job']
    assert ('bake bread', 'bake bread-de') in pairs['alternative']
    assert dataset.manifest['sources'][0]['language'] == 'en, de'
    assert dataset.manifest['counts']['skills'] == len(SKILLS)


@pytest.mark.parametrize(
    ('label', 'sentence', 'named'),
    [
        ('C', 'We write C.', True),
        ('C', 'We write C++ and C#.', False),
        ('IT', 'We like it.', False),
        ('IT', 'A job in IT!', True),
        ('bake bread', 'BAKE, bread', True),
        ('bake bread', 'bake breads', False),
        ('R', 'You lead our R&D team.', False),
        ('R', 'Python/R & SQL', True),
    ],
)
def test_a_sentence_names_a_skill_by_whole_words(label, sentence, named):
    assert Names({0: [label]}).named(sentence, [0]) == ([0] if named else [])


# Bad input. A case writes files, and says what comes of them: the message of an error, or what the dataset counts.


def jsonl(*rows):
    return lambda esco: write_jsonl(esco / 'v.jsonl', rows)


def parquet(**columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return lambda esco: write_parquet(esco / 'v.parquet', rows)


def raw(name, content):
    return lambda esco: (esco / name).write_bytes(content)


def both_cases_of_a_label(esco):
    write_csv(esco / 'skills_en.csv', [*SKILLS, SKILLS[2] | {'conceptUri': SKILL + 'loud', 'preferredLabel': 'JUGGLE'}])
    write_jsonl(esco / 'v.jsonl', [{'title': 'artist', 'skills': ['Juggle', 'juggle', 'JUGGLE']}])


def skills_of_another_release(esco):
    write_csv(esco / 'skills_en.csv', SKILLS[1:])
    jsonl(GOOD)(esco)


def a_full_disk(esco):
    jsonl(GOOD)(esco)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def nothing(esco):
    del esco


GOOD = {'title': 'clerk', 'sentence': 'You ask.', 'skills': ['SQL']}
REFUSED = {
    'a column of numbers in Parquet': (
        parquet(title=[1], skills=[['SQL']]),
        {},
        r"v\.parquet, row 1: title is '1' \(int",
    ),
    'skills of numbers in Parquet': (
        parquet(title=['a'], skills=[[1]]),
        {},
        r"v\.parquet, row 1: skills is '\[1\]' \(l",
    ),
    'no Parquet at all': (raw('v.parquet', b'PAR1 or not'), {}, r'v\.parquet: not a Parquet file that can be read'),
    'a glob that matches nothing': (nothing, {}, r'--vacancies=.*v\.\*: matches no file'),
    'a folder instead of files': (lambda esco: (esco / 'v.csv').mkdir(), {}, r'--vacancies=.*v\.\*: matches no file'),
    'a file of another kind': (
        raw('v.xlsx', b'x'),
        {},
        r'v\.xlsx: expected a table that ends in \.csv, \.tsv, \.json.*; save it as one of these',
    ),
    'skills of another release': (
        skills_of_another_release,
        {},
        r"unknown skill '.*sql'; .*all files of one release\?",
    ),
    'vacancies of another release': (
        jsonl(GOOD | {'skills': ['x', 'y']}),
        {},
        r"v\.\*: no skill is known, .* 'x', 'y'",
    ),
    'vacancies without a skill': (jsonl(GOOD | {'skills': []}), {}, r'v\.\*: no row has a skill; .* data_prep tag'),
    'an unwritable output': (jsonl(GOOD), {'output': 'o' * 300}, r'o: cannot be written \(File name too long\)'),
    'a full disk': (a_full_disk, {}, r'data: cannot be written \(.*File too large.*free some space'),
    'a column that is not there': (
        jsonl(GOOD),
        {'columns': Columns(title='role')},
        r"line 1: no column 'role'; found ti",
    ),
    'no column of texts': (
        raw('v.csv', b'text,skills\na,SQL\n'),
        {},
        r"v\.csv, line 2: no column 'title' or 'sen",
    ),
    'an empty file': (raw('v.csv', b''), {}, r'v\.csv: empty'),
    'a header alone': (raw('v.csv', b'title,skills\n'), {}, r'v\.csv: empty, it has no rows'),
    'bytes that are not UTF-8': (
        raw('v.csv', b'title,skills\na,SQL\n\xe9,SQL\n'),
        {},
        r'v\.csv, line 3: byte 0xe9 is not UTF-8',
    ),
    'UTF-16': (raw('v.csv', 'title,skills\na,SQL\n'.encode('utf-16-be')), {}, r'v\.csv, line 1: a NUL byte'),
    'a NUL byte': (raw('v.jsonl', b'{"title": "a\0", "skills": []}\n'), {}, r'v\.jsonl, line 1: a NUL byte'),
    'a ragged row': (raw('v.csv', b'title,skills\na,SQL\nb\n'), {}, r'v\.csv, line 3: 1 cells, but the header has 2'),
    'an open quote': (raw('v.csv', b'title,skills\na,"SQL\n'), {}, r'v\.csv, line 2: not CSV from here on'),
    'a line that is not an object': (
        raw('v.jsonl', b'["a"]\n'),
        {},
        r'v\.jsonl, row 1: expected a JSON object, found "a"',
    ),
    'a line that is not JSON': (raw('v.jsonl', b'{"title": \n'), {}, r'v\.jsonl, line 1: not JSON'),
    'skills given as a number': (
        jsonl(GOOD, GOOD | {'skills': 7}),
        {},
        r"v\.jsonl, line 2: skills is '7' \(int\), exp",
    ),
    'a title that is a list': (
        jsonl(GOOD, GOOD | {'title': ['a']}),
        {},
        r'v\.jsonl, line 2: title is .*list.*expected t',
    ),
    'a list that is none': (
        raw('v.csv', b'title,skills\na,[SQL]\n'),
        {},
        r'v\.csv, line 2: skills is .* looks like a l',
    ),
    'a synthetic title of another source': (
        lambda esco: write_jsonl(esco / 't.jsonl', [{'skill': SKILL + 'sql', 'title': 'a', 'source': 'me'}]),
        {'synthetic': 't.jsonl', 'vacancies': []},
        r"t\.jsonl, line 1: source is 'me', expected synthetic or real",
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_by_name_and_nothing_is_left_behind(name, esco, build):
    write, changes, message = REFUSED[name]
    options = {'vacancies': [str(esco / 'v.*')], 'output': esco.parent / 'out' / changes.pop('output', 'data')}
    if 'synthetic' in changes:
        changes = changes | {'synthetic': [str(esco / changes['synthetic'])]}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        write(esco)
        before = sorted(esco.parent.rglob('*'))
        with pytest.raises(DataError, match=message) as caught:
            build(**(options | changes))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert '\n' not in str(caught.value)
    left = [path for path in sorted(esco.parent.rglob('*')) if path not in before]
    assert [path for path in left if path.name != 'out'] == []


WITHOUT = 'vacancy or sentence without a known skill, dropped'
REPAIRED = {
    'a sentence of 100,000 characters': (
        jsonl(GOOD, GOOD | {'sentence': 'ask ' * 25_000}),
        {'sentence of more than 2000 characters, dropped': 1},
    ),
    'a title of 100,000 characters': (
        jsonl(GOOD, {'title': 'ask ' * 25_000, 'skills': ['SQL']}),
        {'title of more than 2000 characters, dropped': 1},
    ),
    'control characters and half a surrogate pair': (
        raw('v.jsonl', b'{"title": "clerk\\u0000", "sentence": "You \\ud83d ask.", "skills": ["SQL"]}\n'),
        {f'{what} with control characters, which became spaces': 1 for what in ('title', 'sentence')},
    ),
    'labels that differ in case only': (both_cases_of_a_label, {'ambiguous': 1}),
    'an unknown skill beside a known one': (jsonl(GOOD | {'skills': ['SQL', 'fly']}), {'unknown': 1}),
    'no title': (jsonl(GOOD, GOOD | {'title': None}), {'repeated_pairs': 1}),
    'no skills': (jsonl(GOOD, GOOD | {'skills': None}), {WITHOUT: 1}),
    'no text at all': (jsonl(GOOD, {'title': '', 'skills': ['SQL']}), {'vacancy without a text, dropped': 1}),
    'duplicate rows': (jsonl(GOOD, GOOD, GOOD), {'repeated_pairs': 2}),
    'blank lines': (raw('v.jsonl', b'\n\n' + json.dumps(GOOD).encode() + b'\n\n'), {'blank row': 3}),
    'an empty file among others': (
        lambda esco: (jsonl(GOOD)(esco), (esco / 'v.csv').touch()),
        {'empty file, passed over': 1},
    ),
    'no newline at the end': (raw('v.jsonl', json.dumps(GOOD).encode()), {}),
    'lines that end as on other systems': (raw('v.csv', b'title,sentence,skills\r\nclerk,You ask.,SQL\r\n'), {}),
}


@pytest.mark.parametrize('name', REPAIRED)
def test_repaired_and_counted(name, esco, build):
    write, expected = REPAIRED[name]
    write(esco)
    dataset = build(vacancies=[str(esco / 'v.*')])
    of_the_release = {'blank line in a cell, dropped', 'repeated relation, essential wins'}
    manifest = dataset.manifest
    counted = {kind: repair['count'] for kind, repair in manifest['repairs'].items() if 'label' not in kind}
    counted |= {kind: manifest['skill_names'][kind]['count'] for kind in ('unknown', 'ambiguous')}
    counted |= {'repeated_pairs': manifest['counts']['sentence']['repeated_pairs']}
    assert {kind: count for kind, count in counted.items() if kind not in of_the_release and count} == expected
    if name != 'labels that differ in case only':
        pairs = pairs_by_text(dataset)
        assert {pair for pair in pairs['job'] if pair[1] == 'clerk'} == {('SQL', 'clerk')}
        assert pairs['sentence'] == {('SQL', 'You ask.')}
