"""Tables: the rows of each format with their places, and what is refused by file and line."""

import csv
import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import COMPRESSED, SUFFIXES, read_rows, read_texts

CELLS = [{'a': 'bake bread', 'b': 'x\ny'}, {'a': 'SQL', 'b': ''}]


def write(path, rows):
    if path.suffix == '.parquet':
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == '.json':
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix in ('.jsonl', '.ndjson'):
        path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    else:
        with open(path, 'w', encoding='utf-8', newline='') as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter='\t' if path.suffix == '.tsv' else ',')
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_format_gives_the_same_cells(tmp_path, suffix):
    assert [row.cells for row in read_rows(write(tmp_path / f't{suffix}', CELLS))] == CELLS


@pytest.mark.parametrize('suffix', COMPRESSED)
@pytest.mark.parametrize('name', ['t.csv', 't.tsv', 't.jsonl', 't.json'])
def test_text_files_may_be_compressed_and_their_endings_in_capitals(tmp_path, name, suffix):
    path = tmp_path / f'{name}{suffix}'.upper()
    with COMPRESSED[suffix][1](path, 'wb') as file:
        file.write(write(tmp_path / name, CELLS).read_bytes())
    assert [row.cells for row in read_rows(path)] == CELLS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r'T\..*: cannot be read \(|T\.JSON.*: not JSON'):
        list(read_rows(path))


@pytest.mark.parametrize(('name', 'other'), [('t.csv.gz', 't.csv'), ('t.jsonl', 't.jsonl.gz')])
def test_whether_a_file_is_compressed_is_known_by_its_content(tmp_path, name, other):
    content = write(tmp_path / name.removesuffix('.gz'), CELLS).read_bytes()
    (tmp_path / other).write_bytes(gzip.compress(content) if name.endswith('.gz') else content)
    assert [row.cells for row in read_rows(tmp_path / other)] == CELLS


def test_spaces_around_the_names_of_columns_do_not_count(tmp_path):
    (tmp_path / 'a.csv').write_text(' a, b \n1,2\n')
    assert [row.cells for row in read_rows(tmp_path / 'a.csv', 'ab')] == [{'a': '1', 'b': '2'}]


@pytest.mark.parametrize(
    ('name', 'content', 'delimiter'),
    [
        ('a.csv', 'a;b\r\n1;x,y\r\n', ';'),
        ('a.csv', '"a";"b"\n"1";"x,y"\n', ';'),
        ('a.csv', 'a\tb\n1\tx,y\n', '\t'),
        ('a.tsv', 'a;b\n1;x,y\n', ';'),
        ('a.tsv', 'a,b\n1,"x,y"\n', ','),
    ],
)
def test_another_delimiter_is_known_by_the_header_and_counted(tmp_path, name, content, delimiter):
    (tmp_path / name).write_text(content, newline='')
    repairs = Repairs()
    assert [row.cells for row in read_rows(tmp_path / name, 'ab', repairs)] == [{'a': '1', 'b': 'x,y'}]
    assert repairs.summary() == {f'columns separated by {delimiter!r}': {'count': 1, 'examples': [name]}}


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a.jsonl', '\n[{"a": 1},\n {"a": 2}]'),
        ('a.json', '{"a": 1}\n{"a": 2}\n'),
        ('a.json', '[{"a": 1}, {"a": 2}]\n\n'),
        ('a.ndjson', '\ufeff{"a": 1}\r\n{"a": 2}\r\n'),
    ],
)
def test_json_is_one_object_per_line_or_an_array_whatever_the_ending_says(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding='utf-8', newline='')
    assert [row.cells for row in read_rows(tmp_path / name)] == [{'a': 1}, {'a': 2}]


def test_numbers_that_json_does_not_have_are_nulls(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"a": NaN, "b": [Infinity, "SQL"]}\n')
    [row] = read_rows(tmp_path / 'a.jsonl')
    assert (row.text('a'), row.names('a'), row.names('b')) == ('', [], ['SQL'])


def test_a_row_knows_the_line_on_which_it_begins(tmp_path):
    places = [row.place for row in read_rows(write(tmp_path / 't.csv', CELLS))]
    assert places == [f'{tmp_path}/t.csv, line 2', f'{tmp_path}/t.csv, line 4']
    assert [row.short_place for row in read_rows(write(tmp_path / 't.parquet', CELLS))][1] == 't.parquet, row 2'


def test_blank_rows_are_skipped_and_counted(tmp_path):
    (tmp_path / 't.csv').write_text('a,b\n\n1,2\n,\n')
    repairs = Repairs()
    assert [row.cells for row in read_rows(tmp_path / 't.csv', 'ab', repairs)] == [{'a': '1', 'b': '2'}]
    assert repairs.summary() == {'blank row': {'count': 2, 'examples': ['t.csv, line 2', 't.csv, line 4']}}


@pytest.mark.parametrize(
    ('cell', 'names'),
    [
        (None, []),
        ('', []),
        ('SQL\n\nbake bread', ['SQL', 'bake bread']),
        ("['SQL', 'C++']", ['SQL', 'C++']),
        (['SQL'], ['SQL']),
        ('  ["SQL", "R"]\n', ['SQL', 'R']),
        ('["http:\\/\\/esco\\/1", "caf\\u00e9"]', ['http://esco/1', 'café']),
        ('["SQL", null]', ['SQL']),
        ("['SQL', None, '']", ['SQL']),
        ("['SQL' 'C++'\n 'R']", ['SQL', 'C++', 'R']),
        ("""["driver's licence" 'a \\'b\\'' "c, 'd' e"]""", ["driver's licence", "a 'b'", "c, 'd' e"]),
        ("['a', '  ', 'b']", ['a', 'b']),
        ("['SQL', nan]", ['SQL']),
        ("['SQL' None 'nan' nan 'R']", ['SQL', 'nan', 'R']),
        ("""[np.str_('SQL'), np.str_("driver's licence (B)")]""", ['SQL', "driver's licence (B)"]),
        ("('SQL', 'R')", ['SQL', 'R']),
        ("{'SQL', 'R'}", ['R', 'SQL']),
        ('{SQL,"a, (b)",NULL,"5\\" disk"}', ['SQL', 'a, (b)', '5" disk']),
        ('{}', []),
        ('(ISC)² (CISSP)', ['(ISC)² (CISSP)']),
        (['SQL', None, ' '], ['SQL']),
        ([{'uri': 'http://esco/1', 'name': 'SQL'}, {'id': 7, 'name': 'R'}], ['http://esco/1', 'R']),
        (
            [{'conceptUri': None, 'preferredLabel': 'SQL'}, {'name': None}, {'@id': 'http://esco/2'}],
            ['SQL', 'http://esco/2'],
        ),
        ('[{"title": "SQL"}]', ['SQL']),
    ],
)
def test_a_cell_lists_names_by_line_or_as_a_list(tmp_path, cell, names):
    [row] = read_rows(write(tmp_path / 't.jsonl', [{'a': cell}]))
    assert row.names('a') == names


def test_structs_of_parquet_are_names_too(tmp_path):
    cells = {'a': [{'name': 'SQL', 'uri': None}, {'name': None, 'uri': 'http://esco/1'}, None]}
    repairs = Repairs()
    [row] = read_rows(write(tmp_path / 't.parquet', [cells]))
    assert row.names('a', repairs) == ['SQL', 'http://esco/1']
    assert repairs.summary() == {'null in a list of names, passed over': {'count': 1, 'examples': ['t.parquet, row 1']}}


@pytest.mark.parametrize(
    'values',
    [pa.array([2**62], pa.timestamp('us')), pa.array([b'\xff']).view(pa.string())],
)
def test_a_value_of_parquet_that_python_cannot_hold_is_named_by_its_rows(tmp_path, values):
    pq.write_table(pa.table({'a': ['SQL'], 'b': values}), tmp_path / 't.parquet')
    with pytest.raises(DataError, match=r't\.parquet, rows 1 to 1: a value that cannot be read \('):
        list(read_rows(tmp_path / 't.parquet'))


def test_a_list_that_is_neither_json_nor_python_is_counted(tmp_path):
    repairs = Repairs()
    for cell in ("['a' 'b']", "['a', 'b']", '["a", "b"]', '{a,b}'):
        [row] = read_rows(write(tmp_path / 't.csv', [{'a': cell}]))
        assert row.names('a', repairs) == ['a', 'b']
    assert {kind: repair['count'] for kind, repair in repairs.summary().items()} == {
        'list as NumPy or pandas prints it, read nevertheless': 1,
        'list in braces, read as an array of PostgreSQL': 1,
    }


@pytest.mark.parametrize(
    ('cell', 'message'),
    [
        ("['a' 'b' ... 'z']", "looks like a list but cannot be read as one; expected, for example, ['SQL']"),
        ('[SQL, R]', 'looks like a list but cannot be read as one'),
        ('[' * 100_000 + ']', 'looks like a list but cannot be read as one'),
        ([['SQL']], '(list), expected a list of names, or of objects with one of uri,'),
        ([{'level': 'expert'}], 'expected a list of names, or of objects with one of uri,'),
        ({'name': 'SQL'}, 'expected a list of names'),
        ('{"name": "SQL"}', '(dict), expected a list of names'),
        ('{"SQL" R}', 'looks like a list but cannot be read as one'),
        ('{{"machine learning","SQL"}}', 'looks like a list but cannot be read as one'),
        ("{['SQL']}", 'looks like a list but cannot be read as one'),
    ],
)
def test_a_cell_whose_names_would_have_to_be_guessed_is_refused(tmp_path, cell, message):
    [row] = read_rows(write(tmp_path / 't.jsonl', [{'a': cell}]))
    with pytest.raises(DataError, match=f't.jsonl, line 1: .*{re.escape(message)}'):
        row.names('a')


@pytest.mark.parametrize(
    ('name', 'content', 'column'),
    [
        ('a.txt', '\ufeffbake bread\n\n SQL \r\n', 'text'),
        ('a.csv', 'id,label\n1,bake bread\n2,\n3,"SQL"\n', 'label'),
        ('a.TSV', 'id\tlabel\n1\tbake bread\n2\tSQL\n', 'label'),
        ('a.jsonl', '{"text": "bake bread"}\n\n{"text": "SQL"}\n', 'text'),
        ('a.jsonl', '"bake bread"\n" "\n" SQL"\n', 'label'),
        ('a.jsonl', '"bake bread"\n{"label": "SQL"}\n', 'label'),
        ('a.json', '[\n "bake bread",\n {"label": "SQL"}\n]', 'label'),
        ('a.csv', 'id;label\n1;bake bread\n2;SQL\n', 'label'),
    ],
)
def test_texts_are_read_without_spaces_and_blank_ones(tmp_path, name, content, column):
    (tmp_path / name).write_text(content, encoding='utf-8', newline='')
    assert list(read_texts(tmp_path / name, column)) == ['bake bread', 'SQL']


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.csv', b'id,label\n1,x\n', r"a.csv, line 2: no column 'text'; found id, label; --own_flag names it$"),
        (
            'a.tsv',
            b'bake bread\nSQL\n',
            r"a.tsv, line 2: no column 'text'; found bake bread; --own_flag names it; or, if .* rename it to .txt$",
        ),
        ('a.csv', b'text,text\n1,x\n', r"a.csv, line 1: two columns 'text', expected one of each name"),
        ('a.csv', b'id,text\n1,x\n2\n', r'a.csv, line 3: 1 cells, but the header has 2'),
        ('a.csv', b'', r'a.csv: empty, it has no rows'),
        ('a.jsonl', b'{"text": "x"}\n{"text": 5}\n', r"a.jsonl, line 2: text is '5' \(int\), expected text"),
        ('a.jsonl', b'[1]\n', r'a.jsonl, row 1: expected a JSON object, found 1'),
        (
            'a.jsonl',
            b'{"text": "x"}\n{"text"\n',
            r"a.jsonl, line 2: not JSON \(Expecting ':' delimiter, column 8\); exp",
        ),
        (
            'a.json',
            b'\n[\n{"text": "x"},\n]',
            r'a.json, line 4: not JSON \(.*; expected one object per line, or one arr',
        ),
        ('a.json', b'{\n"text": "x"\n}', r'a.json, line 1: not JSON \(.*, column \d\); expected one object per line'),
        ('a.json', b'[\n"x",\n"\xe9"]', r'a.json, line 3: byte 0xe9 is not UTF-8; save the file as UTF-8$'),
        ('a.json', b'[\n"x\0"]', r'a.json, line 2: a NUL byte; expected text in UTF-8'),
        ('a.json', b'[' * 100_000, r'a.json, line 1: not JSON \(maximum recursion depth'),
        ('a.txt', b'bar\ncaf\xe9\n', r'a.txt, line 2: byte 0xe9 is not UTF-8'),
        ('a.jsonl', b'{"text": "x"}\n{"text": "\\ud800"}\n', r'a.jsonl, line 2: text is .*half of a surrogate pair'),
    ],
)
def test_a_file_whose_texts_cannot_be_read_is_refused_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_texts(tmp_path / name, 'text', '--own_flag'))


def test_half_of_a_surrogate_pair_is_not_a_required_text(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"a": "SQL \\ud800"}\n')
    [row] = read_rows(tmp_path / 'a.jsonl')
    with pytest.raises(DataError, match=r"a.jsonl, line 1: a is 'SQL .*, half of a surrogate pair, expected text"):
        row.required_text('a')


def test_a_string_is_not_a_row(tmp_path):
    (tmp_path / 'a.jsonl').write_text('"SQL"\n')
    with pytest.raises(DataError, match='line 1: expected a JSON object, found "SQL"'):
        list(read_rows(tmp_path / 'a.jsonl'))


words = st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']))


@settings(deadline=None)
@given(st.lists(st.lists(words, min_size=2, max_size=2), min_size=1), st.sampled_from(['.csv', '.tsv', '.jsonl']))
def test_what_is_written_reads_back(tmp_path_factory, rows, suffix):
    rows = [dict(zip('ab', cells, strict=True)) for cells in rows if any(cell.strip() for cell in cells)]
    if rows:
        path = write(tmp_path_factory.getbasetemp() / f't{suffix}', rows)
        assert [row.cells for row in read_rows(path, 'ab')] == rows


@settings(deadline=None)
@given(st.binary(max_size=40), st.sampled_from(['.csv', '.tsv', '.jsonl']))
def test_whatever_the_bytes_a_reader_yields_rows_or_names_the_file(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f'any{suffix}'
    path.write_bytes(b'a,b\n'.replace(b',', b'\t' if suffix == '.tsv' else b',') + content)
    rows, error = [], str(path)
    try:
        rows = list(read_rows(path, 'ab'))
    except DataError as refusal:
        error = str(refusal)
    assert error.startswith(str(path))
    assert '\n' not in error
    assert all({'a', 'b'} <= set(row.cells) for row in rows)
