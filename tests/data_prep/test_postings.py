"""Postings: what is read from a page, in whatever form and encoding it has it, and what becomes of it."""

import html
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.scrape.postings import Page, plain_text, vacancies
from tests.data_prep.web import page, posting


def read(text, **more):
    return vacancies(Page('page', 'https://example.org/1', text.encode() if isinstance(text, str) else text, **more))


def titles(postings):
    return [vacancy['title'] for vacancy in postings]


def script(text):
    return f'<script type="application/ld+json">{text}</script>'


def test_a_posting_in_json_ld_becomes_a_vacancy():
    description = '<p>You bake &amp; sell.</p><ul><li>Knead dough</li><li>Fire the oven</li></ul>Apply&nbsp;now'
    postings, notes = read(
        page(
            posting('Baker &amp; seller', description, skills=['Kneading', {'@type': 'DefinedTerm', 'name': 'Ovens'}])
            | {'datePosted': '2026-03-09T10:00:00+01:00', 'inLanguage': 'en_GB'},
            lang='de',
        )
    )
    assert notes == []
    assert postings == [
        {
            'title': 'Baker & seller',
            'description': 'You bake & sell.\n\nKnead dough\nFire the oven\n\nApply now',
            'skills': ['Kneading', 'Ovens'],
            'language': 'en-GB',
            'url': 'https://example.org/1',
            'date': '2026-03-09',
        }
    ]


ESCO = 'http://data.europa.eu/esco/skill/'


@pytest.mark.parametrize(
    ('terms', 'skills'),
    [
        ([{'name': 'SQL', 'termCode': 'x', 'url': ESCO + '1'}, {'termCode': ESCO + '2'}], ['SQL', ESCO + '2']),
        (
            [{'@id': ESCO + '1'}, {'@id': '#here'}, {'url': ESCO + '2'}, {'id': ESCO + '3'}],
            [ESCO + '1', ESCO + '2', ESCO + '3'],
        ),
        ({'@type': 'DefinedTerm', 'name': ['SQL', 'Python'], '@id': ESCO + '1'}, ['SQL', 'Python']),
        ([{'@value': 'SQL', '@language': 'en'}, {'@id': '_:b0', 'name': None, 'termCode': ' S1 '}], ['SQL', 'S1']),
        ([{'schema:name': 'SQL'}, {'http://schema.org/termCode': ESCO + '1'}], ['SQL', ESCO + '1']),
        ('<ul><li>SQL</li><li>Python</li></ul>', ['SQL', 'Python']),
        ({'@list': ['SQL', {'name': 'R'}]}, ['SQL', 'R']),
        ({'name': 'all', 'itemListElement': [{'name': 'SQL'}, {'item': {'termCode': 'S1'}}]}, ['SQL', 'S1']),
        ({'@type': 'DefinedTermSet', 'hasDefinedTerm': [{'@id': ESCO + '1'}]}, [ESCO + '1']),
        ([None, 7, {}, [[['SQL']]]], ['SQL']),
    ],
)
def test_a_skill_is_named_by_its_name_otherwise_by_its_code_or_address(terms, skills):
    postings, notes = read(page(posting(skills=terms)))
    assert (postings[0]['skills'], notes) == (skills, [])


def test_skills_that_cannot_be_read_are_counted():
    for skills in ({'@id': '#here'}, [{'level': 'expert'}], 7):
        assert read(page(posting(skills=skills)))[1] == ['skills without a name, code or address, left out']
    for skills in (None, [], '', {}):
        assert read(page(posting(skills=skills)))[1] == []


def test_a_reference_means_the_object_that_it_refers_to():
    graph = [
        posting('A', skills=[{'@id': '#sql'}, {'@id': ESCO + '1'}, {'@id': '#nowhere'}]) | {'@id': '#job'},
        {'@type': 'DefinedTerm', '@id': '#sql', 'name': 'SQL'},
    ]
    assert read(page({'@graph': graph}))[0][0]['skills'] == ['SQL', ESCO + '1']
    other = script(json.dumps(graph[1]))
    assert read(page(graph[0], body=other))[0][0]['skills'] == ['SQL', ESCO + '1']


def test_properties_may_bear_the_name_of_their_vocabulary():
    item = {f'http://schema.org/{key}': [{'@value': value}] for key, value in [('title', 'A'), ('skills', 'SQL')]}
    postings, _ = read(page(item | {'@type': ['http://schema.org/JobPosting'], 'schema:description': 'B'}))
    assert [(p['title'], p['skills'], p['description']) for p in postings] == [('A', ['SQL'], 'B')]


RDFA = """<html lang="nl"><div vocab="https://schema.org/" typeof="JobPosting" resource="#job">
  <h1 property="title">Baker</h1><meta property="datePosted" content="2026-01-02">
  <div property="description"><p>Bake bread.</p><ul><li>Knead<li>Fire</ul></div>
  <span property="skills">Kneading</span><span property="skills" content="Ovens">3 ovens</span>
  <div property="skills" typeof="DefinedTerm"><b property="name">Baking</b></div>
  <div property="hiringOrganization" typeof="Organization"><b property="name">Bakery</b></div></div>"""
PREFIXED = RDFA.replace('property="', 'property="schema:').replace('typeof="', 'typeof="schema:')
FULL = RDFA.replace('property="', 'property="https://schema.org/').replace('typeof="', 'typeof="https://schema.org/')


@pytest.mark.parametrize('body', [RDFA, PREFIXED, FULL], ids=['a vocabulary', 'a prefix', 'full names'])
def test_a_posting_in_rdfa_becomes_a_vacancy(body):
    postings, notes = read(body)
    assert notes == []
    assert postings == [
        {
            'title': 'Baker',
            'description': 'Bake bread.\n\nKnead\nFire',
            'skills': ['Kneading', 'Ovens', 'Baking'],
            'language': 'nl',
            'url': 'https://example.org/1',
            'date': '2026-01-02',
        }
    ]


def test_a_property_in_rdfa_may_be_a_resource():
    body = RDFA.replace('<span', f'<span property="skills" resource="{ESCO}1"></span><span', 1)
    assert read(body)[0][0]['skills'] == [f'{ESCO}1', 'Kneading', 'Ovens', 'Baking']


MICRODATA = """<html lang="fr"><div itemscope itemtype="https://schema.org/JobPosting">
  <h1 itemprop="title">Baker</h1><time itemprop="datePosted" datetime="2026-01-02">2 January</time>
  <div itemprop="description"><p>Bake bread.</p><ul><li>Knead<li>Fire</ul></div>
  <span itemprop="skills">Kneading</span><span itemprop="skills">Ovens</span>
  <div itemprop="hiringOrganization" itemscope itemtype="https://schema.org/Organization">
    <b itemprop="name">Bakery</b></div></div>"""


def test_a_posting_in_microdata_becomes_a_vacancy():
    postings, notes = read(MICRODATA)
    assert notes == []
    assert postings == [
        {
            'title': 'Baker',
            'description': 'Bake bread.\n\nKnead\nFire',
            'skills': ['Kneading', 'Ovens'],
            'language': 'fr',
            'url': 'https://example.org/1',
            'date': '2026-01-02',
        }
    ]


def test_a_term_in_microdata_may_have_an_address_alone():
    term = f'<i itemprop="skills" itemscope itemtype="https://schema.org/DefinedTerm" itemid="{ESCO}1"></i>'
    postings, _ = read(MICRODATA.replace('<span', term + '<span', 1))
    assert postings[0]['skills'] == [f'{ESCO}1', 'Kneading', 'Ovens']


def test_a_page_that_says_the_same_in_several_ways_is_read_once():
    assert titles(read(page(posting('Cook'), body=MICRODATA))[0]) == ['Cook']
    assert titles(read(MICRODATA + RDFA.replace('Baker', 'Cook'))[0]) == ['Baker']


@pytest.mark.parametrize(
    'data',
    [
        {'@graph': [{'@type': 'WebSite'}, {'@graph': [posting('A'), posting('B')]}]},
        [posting('A'), [posting('B')]],
        {'@type': 'ItemList', 'itemListElement': [{'item': posting('A')}, {'item': posting('B')}]},
        [posting('A') | {'@type': ['Thing', 'JobPosting']}, posting('B') | {'@type': 'http://schema.org/JobPosting'}],
        [posting('A') | {'@type': 'schema:JobPosting'}, {'@type': 'NoJobPosting'}, posting('B')],
        [posting('A') | {'@type': 'https://schema.org/JobPosting/'}, posting('B')],
    ],
    ids=['graph in a graph', 'lists', 'list items', 'several types', 'prefixes', 'a slash at the end'],
)
def test_postings_are_found_wherever_they_stand(data):
    assert titles(read(page(data))[0]) == ['A', 'B']


def test_broken_json_ld_is_counted_and_costs_only_itself():
    broken = script('{"@type": "JobPosting", "title": ')
    deep = script('{"a": ' * 100_000)
    postings, notes = read(page(posting('A'), body=broken + deep + script(json.dumps(posting('B')))))
    assert titles(postings) == ['A', 'B']
    assert notes == ['broken JSON-LD, left out'] * 2


WRAPPED = {
    'a semicolon': '{};',
    'CDATA': '//<![CDATA[\n{}\n//]]>',
    'a comment of HTML': '<!--\n{}\n-->',
    'a comment of JavaScript': '/* the "posting": */ {} // it',
    'an assignment': 'window.job = {};',
    'a list': '[[{}]]',
    'a byte order mark': '\ufeff{}\u200b',
    'another object': '{"@type": "WebSite"}{}',
    'another object and a comma': '{"@type": "WebSite"},\n{},',
}


@pytest.mark.parametrize('name', WRAPPED)
def test_json_ld_may_be_wrapped(name):
    text = WRAPPED[name].replace('{}', json.dumps(posting('A; {B} // C', skills=['SQL'])), 1)
    postings, notes = read(script(text))
    assert (titles(postings), postings[0]['skills'], notes) == (['A; {B} // C'], ['SQL'], [])


FAULTY = {
    'escaped': html.escape,
    'escaped twice': lambda text: html.escape(html.escape(text)),
    'escaped by numbers': lambda text: text.replace('"', '&#34;'),
    'JSON in a string of JSON': json.dumps,
    'its quotes escaped': lambda text: text.replace('"', '\\"'),
    'a comma after the last property': lambda text: text.replace('}', ', }').replace(']', ',\n]'),
    'escapes of other languages': lambda text: text.replace('O', r'\x4f').replace(' t', r'\ t'),
    'a backslash before the end of a line': lambda text: text.replace('One, ', 'One,\\\n'),
    'no values': lambda text: text.replace('"title"', '"a": , "b": undefined,, "c": [1,,2], "d": {"value": }, "title"'),
    'comments of JavaScript': lambda text: text.replace('"title"', '// it\'s the "title"\n/* { */ "title"'),
}


@pytest.mark.parametrize('name', FAULTY)
def test_faulty_json_ld_is_mended_and_counted(name):
    item = posting('A', '<p>One, two</p><ul><li>https://a.example // x</li></ul>', skills=['SQL', {'name': 'R'}])
    postings, notes = read(script(FAULTY[name](json.dumps(item))))
    assert notes == ['JSON-LD with faults, mended']
    assert [(p['title'], p['description'], p['skills']) for p in postings] == [
        ('A', 'One, two\n\nhttps://a.example // x', ['SQL', 'R'])
    ]


@pytest.mark.parametrize(
    'text', ['[{a}, {"title": "x" "y"}, {b}]', '{"@graph": [{a}, {b}', '{a} {"x": {"y": {b}, }, "z: 1}', '"{a}, {b},,']
)
def test_whole_postings_in_broken_json_ld_are_kept(text):
    text = text.replace('{a}', json.dumps(posting('A'))).replace('{b}', json.dumps(posting('B')))
    postings, notes = read(script(text))
    assert titles(postings) == ['A', 'B']
    assert notes in (['broken JSON-LD, whole objects in it kept'], ['JSON-LD with faults, mended'], [])


def test_a_large_broken_block_is_not_searched_for_minutes():
    block = '{"a": [' * 100 + json.dumps(posting('A')) + '{"b": "' * 100_000
    assert titles(read(script(block))[0]) == ['A']


def test_json_ld_with_comments_line_breaks_in_texts_and_another_type_attribute_is_read():
    text = '<!-- data -->\n{"@type": "JobPosting", "title": "A", "description": "one\ntwo"}'
    postings, notes = read(f'<script type="Application/LD+JSON; charset=utf-8">{text}</script>')
    assert (titles(postings), postings[0]['description'], notes) == (['A'], 'one\ntwo', [])


def test_a_posting_without_a_title_is_dropped_and_one_without_a_description_kept():
    postings, notes = read(page(posting(' '), posting(None), posting('A', ''), posting(None) | {'name': 'B'}))
    assert titles(postings) == ['A', 'B']
    assert sorted(notes) == ['posting without a description, kept', *['posting without a title, dropped'] * 2]


@pytest.mark.parametrize(
    ('stated', 'date'),
    [('2026-3-9', '2026-03-09'), ('2026-02-30', None), ('03/04/2026', None), ('1767225600', None), (['x'], None)],
)
def test_dates_are_read_where_they_are_unambiguous(stated, date):
    postings, notes = read(page(posting(datePosted=stated)))
    assert postings[0]['date'] == date
    assert notes == ([] if date else ['date that is not year-month-day, left out'])


@pytest.mark.parametrize(
    ('text', 'plain'),
    [
        ('&lt;p&gt;a&lt;/p&gt;&lt;p&gt;b&lt;/p&gt;', 'a\n\nb'),
        ('R&amp;amp;D &lt;3', 'R&D <3'),
        ('one\r\ntwo\n\n\n\nthree\u2028four', 'one\ntwo\n\nthree\nfour'),
        ('List<String> and a < b', 'List<String> and a < b'),
        ('<p>List&lt;String&gt;</p>', 'List<String>'),
        ('<h2>Tasks</h2>one<br>two<br/>three<script>four</script>', 'Tasks\n\none\ntwo\nthree'),
        ('apply?a=1&copy=2', 'apply?a=1&copy=2'),
        ('a\x00b\ud800c', 'abc'),
        ('<p>unclosed <b>tags', 'unclosed tags'),
        ('<ul><li>a</li><li><p>b</p></li><li>c<ul><li>d</li></ul></li></ul>', 'a\n\nb\n\nc\n\nd'),
        ('&lt;ul&gt;&lt;li&gt;a&lt;/li&gt;&lt;li&gt;b&lt;/li&gt;&lt;/ul&gt;', 'a\nb'),
        ('Tasks:<br>• a<br>• b', 'Tasks:\n• a\n• b'),
    ],
)
def test_descriptions_become_plain_text(text, plain):
    assert plain_text(text) == plain


WRONG = {
    'UTF-8 that says latin-1': ('utf-8', 'text/html; charset=iso-8859-1'),
    'UTF-8 that says nothing': ('utf-8', None),
    'windows-1252 in the header': ('windows-1252', 'text/html; charset=windows-1252'),
    'UTF-16 with a byte order mark': ('utf-16', None),
    'UTF-16 in the header': ('utf-16-le', 'text/html; charset=utf-16-le'),
    'windows-1252 that says nothing': ('windows-1252', None),
    'windows-1252 that says latin-1': ('windows-1252', 'text/html; charset=iso-8859-1'),
}


@pytest.mark.parametrize('name', WRONG)
def test_the_text_is_right_in_whatever_encoding(name):
    encoding, header = WRONG[name]
    body = page(body='Bäcker').replace('<head>', '<script type="application/ld+json">{0}</script>', 1)
    body = body.replace('{0}', json.dumps(posting('Bäcker für Köln'), ensure_ascii=False))
    assert titles(read(body.encode(encoding), content_type=header)[0]) == ['Bäcker für Köln']


@pytest.mark.parametrize(
    ('lang', 'text', 'encoding'),
    [
        ('de', 'Bäcker – 20 € „brutto“', 'windows-1252'),
        ('fr', 'Où est l’œuvre ?', 'windows-1252'),
        ('ru', 'Пекарь', 'windows-1251'),
        ('pl', 'Łódź', 'iso-8859-2'),
        ('cs', 'Žižka', 'windows-1250'),
        ('el', 'Αθήνα', 'iso-8859-7'),
        ('ja', '東京', 'shift_jis'),
        ('zh-CN', '北京', 'gb18030'),
        ('zh-TW', '台北', 'big5'),
        ('zh-Hant-HK', '香港', 'big5'),
        ('', 'Café', 'windows-1252'),
    ],
)
def test_a_page_that_declares_no_encoding_is_read_in_that_of_its_language(lang, text, encoding):
    body = f'<html lang="{lang}">' + script(json.dumps(posting(text), ensure_ascii=False))
    assert titles(read(body.encode(encoding))[0]) == [text]
    without = script(json.dumps(posting(text), ensure_ascii=False))
    assert titles(read(without.encode(encoding), language=lang)[0]) == [text]


@pytest.mark.parametrize('encoding', ['ascii', 'windows-1252', 'utf-8'])
def test_a_page_whose_declaration_of_utf_16_can_be_read_is_not_utf_16(encoding):
    title = 'Baker' if encoding == 'ascii' else 'Bäcker'
    body = '<meta charset="utf-16">' + script(json.dumps(posting(title), ensure_ascii=False))
    assert titles(read(body.encode(encoding))[0]) == [title]


def test_a_page_that_is_cut_within_a_character_is_still_utf_8():
    body = f'{script(json.dumps(posting("Bäcker"), ensure_ascii=False))}Käse'.encode()
    assert titles(read(body[:-3])[0]) == ['Bäcker']


def test_an_encoding_that_does_not_exist_or_does_not_fit_costs_letters_only():
    body = page(posting('Baker')).encode() + 'ä'.encode('latin-1')
    for header in ('text/html; charset=klingon', 'text/html; charset=utf-8', 'text/html; charset=shift_jis'):
        assert titles(read(body, content_type=header)[0]) == ['Baker']


SLOW = {
    'many properties': MICRODATA + '<i itemprop="skills">x</i>' * 10_001,
    'items in items': '<div itemprop="description" itemscope>' * 200 + MICRODATA,
    'many references': '<p itemscope itemref="r r r">' * 1000
    + f'<div id="r">{"<i itemprop=x>x</i>" * 90}</div>'
    + MICRODATA,
}


@pytest.mark.parametrize('name', SLOW)
def test_microdata_that_would_take_minutes_is_left_out(name):
    assert read(SLOW[name]) == ([], ['microdata too large or too deep to read, left out'])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just('<p>a</p>'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['name', '@value', 'x']), inner),
    max_leaves=6,
)
fields = st.sampled_from(['title', 'description', 'skills', 'datePosted', 'inLanguage', '@type', '@graph'])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(fields, values))
def test_whatever_json_ld_says_a_vacancy_is_what_build_expects(fields):
    postings, _ = read(page({'x': posting()} | fields))
    postings += read(page(posting() | fields))[0]
    for vacancy in postings:
        assert vacancy['title'].strip()
        assert isinstance(vacancy['description'], str)
        assert all(isinstance(skill, str) for skill in vacancy['skills'])
        json.dumps(vacancy, ensure_ascii=False).encode()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.binary(max_size=20) | st.sampled_from([b'JobPosting', b'<script type="application/ld+json">', b'<']))
)
def test_no_bytes_make_reading_a_page_fail(parts):
    for body in (b''.join(parts), MICRODATA.encode()[:200] + b''.join(parts), b''.join(parts) + MICRODATA.encode()):
        for vacancy in read(body)[0]:
            json.dumps(vacancy, ensure_ascii=False).encode()


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_plain_text_has_no_markup_whitespace_or_control_characters_left(text):
    plain = plain_text(f'<p>{text}</p><br>')
    assert plain == plain.strip()
    assert '  ' not in plain
    assert '\n\n\n' not in plain
    assert '<br>' not in plain.lower() or '&' in text or '<' in text
    assert plain.encode().isascii() or not text.isascii() or '&' in text
