"""Reading tables: rows of CSV, TSV, JSON and Parquet files, each with its place for error messages.

The standard library reads all but Parquet: pyarrow's readers of CSV and JSON do not tell on which line a row begins.
"""

import ast
import bz2
import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from uwe_jax.io.errors import DataError, EmptyFileError, NoColumnError
from uwe_jax.io.repairs import Repairs

CELL_CHARACTERS = 10_000_000  # a longer cell is a quote left open; this bounds the memory that it takes
ROWS_PER_READ = 10_000  # of a Parquet file
DELIMITERS = {'.csv': ',', '.tsv': '\t'}
JSON = ('.jsonl', '.ndjson', '.json')
SUFFIXES = (*DELIMITERS, *JSON, '.parquet')  # of tables
# Text files may be compressed: the suffixes, how such a file begins, and what opens it.
COMPRESSED = {'.gz': (b'\x1f\x8b', gzip.open), '.bz2': (b'BZh', bz2.open), '.xz': (b'\xfd7zXZ', lzma.open)}

SURROGATE = re.compile(r'[\ud800-\udfff]')  # half of a pair, which only JSON's escapes can make
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and the infinities, which are not JSON, become null
# Items of a list as Python, NumPy and pandas print them, and the white space before the next one if no comma is there.
_STRING = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ITEM = re.compile(rf"""(?:np\.str_\(({_STRING})\)|({_STRING})|\b(?:None|nan)\b)(\s+(?=['"Nn]))?""")
# The keys under which an object in a list of skills identifies one.
_KEYS = ('uri', 'conceptUri', 'skillUri', 'name', 'label', 'preferredLabel', 'title', 'skill', '@id', 'id')


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      source: the file, or the name of a dataset on the Hub.
      position: `line 2` or, of Parquet and the Hub, `row 1`.
      cells: by column. Those of CSV and TSV are texts.
    """

    source: str
    position: str
    cells: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Where the row is, for errors: `FILE, line 2`."""
        return f'{self.source}, {self.position}'

    @property
    def short_place(self) -> str:
        """The place without the file's directory."""
        return f'{pathlib.Path(self.source).name}, {self.position}'

    def cell(self, *columns: str) -> Any:
        """The value in the first of these columns that the row has.

        Raises:
          NoColumnError: it has none of them.
        """
        for column in columns:
            if column in self.cells:
                return self.cells[column]
        wanted = ' or '.join(map(repr, columns))
        raise NoColumnError(f'{self.place}: no column {wanted}; found {", ".join(map(str, self.cells))[:300]}')

    def text(self, column: str) -> str:
        """The text in a column as it is; '' if the cell is empty or the row does not have the column.

        Raises:
          DataError: the cell is a number, a list or an object.
        """
        value = self.cells.get(column)
        if value is None:
            return ''
        if not isinstance(value, str):
            raise DataError(f'{self.place}: {column} is {_short(value)}, expected text')
        return value

    def required_text(self, *columns: str) -> str:
        """The text in the first of these columns that the row has, without the spaces around it.

        Raises:
          DataError: the row has none of them, or the cell is blank or not a Unicode text.
        """
        value, column = self.cell(*columns), next(column for column in columns if column in self.cells)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f'{self.place}: {column} is {_short(value)}, expected text')
        if not value.isascii() and SURROGATE.search(value):
            raise DataError(f'{self.place}: {column} is {_short(value)}, half of a surrogate pair, expected text')
        return value.strip()

    def names(self, column: str, repairs: Repairs | None = None) -> list[str]:
        """The names that a cell lists.

        The cell is a list, or text with one name per line or written as a list: as JSON, as Python, NumPy or pandas
        prints it, or as an array of PostgreSQL. An object in a list is named by its `uri`, otherwise by its `name`.

        Args:
          column: of the cell; a row without it has no names.
          repairs: counts nulls in a list, and lists that are neither JSON nor Python.

        Raises:
          DataError: the cell is neither.
        """
        items, repairs = self.cells.get(column), Repairs() if repairs is None else repairs
        if items is None:
            return []
        if isinstance(items, str):
            text = items.strip()
            is_list = text[:1] + text[-1:] in ('[]', '()', '{}')
            items = self._written_list(column, text, repairs) if is_list else text.splitlines()
        if not isinstance(items, list):
            raise DataError(f'{self.place}: {column} is {_short(items)}, expected a list of names')
        names = []
        for item in items:
            name = _name(item)
            if not isinstance(name, str | None):
                expected = f'a list of names, or of objects with one of {", ".join(_KEYS)}'
                raise DataError(f'{self.place}: {column} is {_short(items)}, expected {expected}')
            if name is None:
                repairs.add('null in a list of names, passed over', self.short_place)
            elif name.strip():
                names.append(name)
        return names

    def _written_list(self, column: str, text: str, repairs: Repairs) -> Any:
        with contextlib.suppress(ValueError, RecursionError):
            return _DECODER.decode(text) or []  # {} is an empty array of PostgreSQL
        as_python = _ITEM.sub(lambda item: f'{item[1] or item[2]}{", " if item[3] else ""}', text)
        try:
            names = ast.literal_eval(as_python)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
            if text.startswith('('):  # a name in parentheses
                return text.splitlines()
            if text.startswith('{') and text[1] not in '{[(':
                with contextlib.suppress(csv.Error):
                    names = next(csv.reader([text[1:-1]], escapechar='\\', strict=True))
                    repairs.add('list in braces, read as an array of PostgreSQL', self.short_place)
                    return [None if name == 'NULL' else name for name in names]
            raise DataError(
                f'{self.place}: {column} is {text[:60]!r}, which looks like a list but cannot be read as one; '
                "expected, for example, ['SQL']"
            ) from error
        if as_python != text:
            repairs.add('list as NumPy or pandas prints it, read nevertheless', self.short_place)
        return sorted(names, key=str) if isinstance(names, set) else list(names) if isinstance(names, tuple) else names


def read_rows(
    path: pathlib.Path, columns: Iterable[str] = (), repairs: Repairs | None = None, suffix: str | None = None
) -> Iterator[Row]:
    """Reads a table row by row, as the file's suffix says: .csv, .tsv, .jsonl (or .ndjson), .json or .parquet.

    Text files are UTF-8, with or without a byte order mark, and may be compressed (.csv.gz). Blank rows are skipped.

    Args:
      path: the file. CSV and TSV have a header; columns that another delimiter separates are recognised by it. JSON is
        one object per line or an array of objects.
      columns: those that every row must have. Other columns are passed on as they are.
      repairs: counts the blank rows, and files with another delimiter.
      suffix: that of the format, where the file's name says another.

    Raises:
      DataError: the suffix is another, the file cannot be read or is not in its format, or a row lacks a column; names
        the file and the line or row.
      EmptyFileError: there are no rows.
    """
    suffix = suffix or suffix_of(path)
    if suffix not in SUFFIXES:
        raise DataError(
            f'{path}: expected a table that ends in {", ".join(SUFFIXES)}, or compressed, such as .csv.gz; '
            'save it as one of these'
        )
    repairs = Repairs() if repairs is None else repairs
    if suffix in DELIMITERS:
        rows = _csv_rows(path, repairs, DELIMITERS[suffix])
    else:
        rows = _json_rows(path, repairs) if suffix in JSON else _parquet_rows(path)
    empty = True
    for row in rows:
        for column in columns:
            row.cell(column)
        empty = False
        yield row
    if empty:
        raise EmptyFileError(f'{path}: empty, it has no rows')


def suffix_of(path: pathlib.Path) -> str:
    """The suffix in lower case, without that of the compression."""
    return pathlib.Path(path.stem if path.suffix.lower() in COMPRESSED else path.name).suffix.lower()


def read_texts(path: pathlib.Path, column: str, flag: str = '--column') -> Iterator[str]:
    """Yields the texts in a column of a table, or the lines of any other file; stripped, without blank ones.

    Args:
      path: a table as `read_rows` takes it, or a file with one text per line. In JSON, a text may also stand for an
        object.
      column: of the table.
      flag: by which the user names the column.

    Raises:
      DataError: as `read_rows`; or a cell is not a text, or no Unicode text.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        yield from filter(None, map(str.strip, _lines(path)))
        return
    for row in _json_rows(path, Repairs(), string_column=column) if suffix in JSON else read_rows(path):
        try:
            row.cell(column)
        except NoColumnError as error:
            # A list without a header cannot be told from a column of another name, so it is not guessed.
            no_header = len(row.cells) == 1 and suffix in DELIMITERS
            hint = '; or, if the file is one text per line without a header, rename it to .txt' if no_header else ''
            raise DataError(f'{error}; {flag} names it{hint}') from error
        if row.text(column).strip():
            yield row.required_text(column)


def _csv_rows(path: pathlib.Path, repairs: Repairs, delimiter: str) -> Iterator[Row]:
    """The rows of a CSV file; cells may be quoted and then hold newlines. The header is on line 1."""
    csv.field_size_limit(CELL_CHARACTERS)
    lines = _lines(path, newline='')
    first = list(itertools.islice(lines, 1))
    line = 1  # on which the row begins
    try:
        if (other := _other_delimiter(first, delimiter)) is not None:
            repairs.add(f'columns separated by {other!r}', path.name)
            delimiter = other
        reader = csv.reader(itertools.chain(first, lines), delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise DataError(f'{path}, line 1: two columns {", ".join(map(repr, twice))}, expected one of each name')
        line = reader.line_num + 1
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                repairs.add('blank row', f'{path.name}, line {line}')
            elif len(cells) != len(header):
                raise DataError(f'{path}, line {line}: {len(cells)} cells, but the header has {len(header)}')
            else:
                yield Row(str(path), f'line {line}', dict(zip(header, cells, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f'{path}, line {line}: not CSV from here on ({error}); is a quote left open?') from error


def _other_delimiter(first: list[str], delimiter: str) -> str | None:
    """The delimiter that separates the columns of a header if the expected one does not, and one other does."""
    columns = {other: len(next(csv.reader(first, delimiter=other), ())) for other in (delimiter, *',;\t')}
    others = [other for other in columns if columns[other] > 1]
    return others[0] if columns[delimiter] < 2 and len(others) == 1 else None


def _json_rows(path: pathlib.Path, repairs: Repairs, string_column: str | None = None) -> Iterator[Row]:
    """The objects of a JSON array, or one per line; a string stands for an object with the `string_column`."""
    for position, cells in _json_values(path, repairs):
        if string_column is not None and isinstance(cells, str):
            cells = {string_column: cells}
        if not isinstance(cells, dict):
            raise DataError(f'{path}, {position}: expected a JSON object, found {json.dumps(cells)[:60]}')
        yield Row(str(path), position, cells)


def _json_values(path: pathlib.Path, repairs: Repairs) -> Iterator[tuple[str, Any]]:
    """The values of a file with their positions."""
    lines = enumerate(_lines(path, newline='\n'), start=1)
    begun = False
    for number, line in lines:
        if not line.strip():
            repairs.add('blank row', f'{path.name}, line {number}')
            continue
        is_array = not begun and line.lstrip().startswith('[')
        begun = True
        text = line + ''.join(rest for _, rest in lines) if is_array else line.rstrip()
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            if isinstance(error, json.JSONDecodeError):
                number += error.lineno - 1
                error = f'{error.msg}, column {error.colno}'
            raise DataError(
                f'{path}, line {number}: not JSON ({error}); expected one object per line, or one array of objects'
            ) from None
        if is_array:
            yield from ((f'row {row}', item) for row, item in enumerate(value, start=1))
        else:
            yield f'line {number}', value


def _parquet_rows(path: pathlib.Path) -> Iterator[Row]:
    """The rows of a Parquet file, counted from 1. A row of nulls is not blank: callers judge it."""
    import pyarrow as pa  # not before: most tables are not Parquet, and the import takes long
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(ROWS_PER_READ):
                for cells in _python_values(batch, f'{path}, rows {number + 1} to {number + len(batch)}'):
                    number += 1
                    yield Row(str(path), f'row {number}', cells)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f'{path}: not a Parquet file that can be read ({reason})') from error
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror or str(error).splitlines()[0]})') from error


def _python_values(batch: Any, place: str) -> list[dict[str, Any]]:
    """The rows of an Arrow batch; DataError if any column, needed or not, holds what Python cannot."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a time out of range or in nanoseconds
        raise DataError(f'{place}: a value that cannot be read ({str(error).splitlines()[0]})') from error


def _lines(path: pathlib.Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a text file, one in memory at a time; `newline` as for `open`."""
    try:
        with open(path, 'rb') as file, io.TextIOWrapper(_decompressed(file), 'utf-8-sig', newline=newline) as lines:
            for number, line in enumerate(lines, start=1):
                if '\0' in line:
                    raise DataError(f'{path}, line {number}: a NUL byte; expected text in UTF-8, not UTF-16 or binary')
                yield line
    except UnicodeDecodeError as error:
        raise DataError(_where_not_utf8(path)) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error})') from error


def _decompressed(file: io.BufferedReader) -> Any:
    """The content of a file, through decompression if it begins like a compressed one, whatever its name says."""
    begin = file.peek(6)
    return next((opened(file) for start, opened in COMPRESSED.values() if begin.startswith(start)), file)


def _where_not_utf8(path: pathlib.Path) -> str:
    """The line on which a file stops being UTF-8, which a decoder of blocks does not know."""
    with open(path, 'rb') as file, _decompressed(file) as content:
        for number, line in enumerate(content, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f'0x{line[error.start]:02x}'
                return f'{path}, line {number}: byte {byte} is not UTF-8; save the file as UTF-8'
    return f'{path}: not UTF-8; save the file as UTF-8'


def _name(item: Any) -> Any:
    """The name in an item of a list, which should be text; None if it has only nulls."""
    if isinstance(item, Mapping) and any(value is not None for value in item.values()):
        return next((item[key] for key in _KEYS if item.get(key)), item)
    return None if isinstance(item, Mapping) else item


def _short(value: Any) -> str:
    return f'{str(value)[:60]!r} ({type(value).__name__})'
