"""Target spaces: described by options, embedded once, then mapped from disk."""

import pathlib

import httpx2
import numpy as np
import pytest

from tests.conftest import without_weights
from tests.serve.conftest import Cold, running
from uwe_jax.interaction import Score
from uwe_jax.io.files import whole_file
from uwe_jax.ranking.lance import LanceIndex
from uwe_jax.serve.__main__ import Options, named, open_model, serve
from uwe_jax.serve.app import make_app
from uwe_jax.serve.spaces import read_spaces


@pytest.fixture
def skills(tmp_path):
    path = tmp_path / 'skills.csv'
    path.write_text('id,label\n1,bake bread\n2,SQL\n')
    return path


def test_a_space_is_a_name_a_file_and_a_column(skills, tmp_path):
    (tmp_path / 'a:b.txt').write_text('baker\n')
    spaces = read_spaces([f'skills={skills}:label', f'titles={tmp_path}/a:b.txt'], ['skills'])
    assert [(space.name, space.path.name, space.column, space.skills) for space in spaces] == [
        ('skills', 'skills.csv', 'label', 'target'),
        ('titles', 'a:b.txt', 'text', 'query'),
    ]
    assert [space.texts for space in spaces] == [['bake bread', 'SQL'], ['baker']]


def test_a_space_may_be_in_a_bucket(skills, bucket):
    for name in ('skills.csv', 'skills.txt'):
        with whole_file(f'gs://{bucket}/{name}') as file:
            file.write_text(skills.read_text())
    table, lines = read_spaces([f'a=gs://{bucket}/skills.csv:label', f'b=gs://{bucket}/skills.txt'], [])
    assert table.texts == ['bake bread', 'SQL']
    assert lines.texts == ['id,label', '1,bake bread', '2,SQL']
    with pytest.raises(ValueError, match=f'gs://{bucket}/none.csv: nothing there'):
        read_spaces([f'a=gs://{bucket}/none.csv:label'], [])


@pytest.mark.parametrize(
    ('words', 'holding_skills', 'message'),
    [
        (['skills'], [], '--space=skills: expected NAME=FILE, NAME=FILE:COLUMN or NAME=lance:PATH, NAME of'),
        (['my skills=FILE'], [], 'NAME of letters, digits, _ and -'),
        (['skills=none.csv:label'], [], 'no file none.csv'),
        (['a=FILE', 'a=FILE'], [], 'a second space of that name'),
        (['a=FILE'], ['b'], '--skills=b: no --space of that name; there is a'),
    ],
)
def test_what_does_not_describe_a_space_is_refused(words, holding_skills, message, skills):
    with pytest.raises(ValueError, match=message):
        read_spaces([word.replace('FILE', str(skills)) for word in words], holding_skills)


def opened(ranker, path, cache, **how):
    [space] = read_spaces([f'skills={path}:label'], how.get('skills', []))
    return space.open(ranker, cache, how.get('dtype', 'float32'))


def test_a_space_is_embedded_once_then_mapped(ranker, skills, tmp_path, caplog):
    with caplog.at_level('INFO', 'uwe_jax'):
        first = opened(ranker, skills, tmp_path / 'cache')
        assert 'kept the embedded targets' in caplog.text
        caplog.clear()
        second = opened(ranker, skills, tmp_path / 'cache')
        assert caplog.text == ''
    assert isinstance(second.embedded.tokens.base, np.memmap)
    assert second.rank(['baker']) == first.rank(['baker'])


def test_what_another_file_dtype_or_model_embeds_is_kept_apart(ranker, make_ranker, skills, tmp_path):
    cache = tmp_path / 'cache'
    opened(ranker, skills, cache)
    opened(ranker, skills, cache, dtype='int8')
    opened(make_ranker(Score(kind='maxsim')), skills, cache)
    skills.write_text('id,label\n1,bake bread\n')
    assert list(opened(ranker, skills, cache).texts) == ['bake bread']
    assert len(list(cache.iterdir())) == 4


def test_a_file_that_changes_while_the_service_starts_is_not_taken_for_the_one_before(ranker, skills, tmp_path):
    [space] = read_spaces([f'skills={skills}:label'], [])
    space.check()
    skills.write_text('id,label\n1,drive a bus\n')
    assert list(space.open(ranker, tmp_path / 'cache', 'float32').texts) == ['bake bread', 'SQL']
    assert list(opened(ranker, skills, tmp_path / 'cache').texts) == ['drive a bus']


def test_a_model_whose_skills_attend_faces_the_side_of_the_skills(make_ranker, skills, tmp_path):
    space = opened(make_ranker(Score(attend='from_skill')), skills, tmp_path, skills=['skills'])
    expected = make_ranker(Score(attend='query')).index(['bake bread', 'SQL']).rank(['baker'])
    assert [hit.score for hit in space.rank(['baker'])[0]] == pytest.approx([hit.score for hit in expected[0]])


def test_a_file_without_texts_is_refused(tmp_path):
    (tmp_path / 'empty.txt').write_text('\n')
    [space] = read_spaces([f'skills={tmp_path}/empty.txt'], [])
    with pytest.raises(ValueError, match=r'--space=skills=\S+empty.txt: contains no text'):
        _ = space.texts


# Indexes in LanceDB


@pytest.fixture
def in_lance(ranker, tmp_path):
    pytest.importorskip('lancedb')
    LanceIndex.create(str(tmp_path / 'titles'), ranker).put(['baker', 'nurse', 'data engineer'])
    return f'lance:{tmp_path}/titles'


def test_a_space_in_lancedb_is_ranked_with_the_skills_where_the_service_was_told(
    make_ranker, in_lance, skills, tmp_path
):
    model = make_ranker(Score(attend='from_skill'))
    titles, _ = read_spaces([f'titles={in_lance}', f'skills={skills}:label'], ['skills'])
    titles.check()
    expected = make_ranker(Score(attend='target')).index(['baker', 'nurse', 'data engineer']).rank(['SQL'])[0]
    hits = titles.open(model, tmp_path, 'float32').rank(['SQL'])[0]
    assert {hit.id for hit in hits} == {'baker', 'nurse', 'data engineer'}
    of_text = {hit.text: hit.score for hit in expected}
    assert [hit.score for hit in hits] == pytest.approx([of_text[hit.text] for hit in hits], abs=4e-3)


def test_a_service_answers_from_lancedb(ranker, in_lance, tmp_path):
    [space] = read_spaces([f'titles={in_lance}'], [])
    opened = {'titles': space.open(ranker, tmp_path, 'float32')}
    with running(make_app({'uwe': Cold(ranker, opened)}, {'titles': None})) as address:
        answer = httpx2.post(f'{address}/rank', json={'queries': ['bake bread', 'SQL'], 'k': 2}, timeout=60).json()
    assert [len(result['targets']) for result in answer['results']] == [2, 2]
    assert all(hit['id'] == hit['text'] for result in answer['results'] for hit in result['targets'])


def test_an_index_that_is_not_there_is_refused(tmp_path):
    [space] = read_spaces([f'titles=lance:{tmp_path}/none'], [])
    with pytest.raises(ValueError, match='none: no index in LanceDB there'):
        space.check()


# The command


def test_a_model_without_a_name_has_that_of_its_directory(tmp_path):
    assert named((f'{tmp_path}/uwe', 'base=all-mpnet-base-v2')) == {
        'uwe': f'{tmp_path}/uwe',
        'base': 'all-mpnet-base-v2',
    }


def test_two_models_of_the_same_name_are_refused():
    with pytest.raises(ValueError, match="a second model 'uwe'; expected NAME=SOURCE with another name"):
        named(('a/uwe', 'b/uwe'))


def test_a_model_whose_skills_attend_has_to_be_told_which_spaces_hold_skills(narrow_model, tmp_path):
    model = without_weights(narrow_model, tmp_path / 'model', Score(attend='from_skill'))
    with pytest.raises(ValueError, match=r'depends on which side the skills are on.*--skills'):
        open_model(str(model), [], Options((str(model),), ('a=b',)))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model': ()}, '--model: expected at least one'),
        ({'space': ()}, '--space: expected at least one'),
        ({'port': 70000}, '--port=70000: expected 0 to 65535'),
        ({'queue': 0}, '--queue=0: expected a number above 0'),
        ({'wait_ms': float('nan')}, '--wait_ms=nan: expected 0 or more'),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        serve(Options(**{'model': ('m',), 'space': ('a=b',), 'cache': pathlib.Path('c')} | options))
