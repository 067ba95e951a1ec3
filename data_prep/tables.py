"""Rows of CSV, JSONL and Parquet files with their places; errors for what is unreadable, counts for what was mended."""

import ast
import collections
import csv
import glob
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uwe_jax.io.errors import DataError, EmptyFileError

EXAMPLES = 3  # of each kind of repair, kept for the manifest
CELL_CHARACTERS = 10_000_000  # more than any description has: a quote left open is found before it fills the memory
ROWS_PER_READ = 10_000  # of a Parquet file, at a time

Row = dict[str, Any]


class Repairs:
    """Counts what was mended on the way, with a few examples of each kind."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._examples: dict[str, list[str]] = collections.defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        """Counts one repair; its example is kept if it is among the first of its kind."""
        self._counts[kind] += 1
        if len(self._examples[kind]) < EXAMPLES:
            self._examples[kind].append(example)

    def __getitem__(self, kind: str) -> int:
        return self._counts[kind]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Returns {kind: {'count', 'examples'}}, sorted by kind."""
        return {kind: {'count': n, 'examples': self._examples[kind]} for kind, n in sorted(self._counts.items())}


def files_of(patterns: Sequence[str], flag: str) -> list[pathlib.Path]:
    """The files that globs match, sorted for each glob, each once.

    Raises:
      DataError: a glob matches no file.
    """
    found: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        paths = [path for path in map(pathlib.Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()]
        if not paths:
            raise DataError(f'{flag}={pattern}: matches no file')
        found.update(dict.fromkeys(paths))
    return list(found)


def read_rows(path: pathlib.Path, columns: Sequence[str], repairs: Repairs) -> Iterator[tuple[str, Row]]:
    """Reads a file as its ending says: .csv, .jsonl or .parquet.

    Args:
      path: the file.
      columns: those that every row must have; the others are passed on as they are.
      repairs: counts the blank rows.

    Yields:
      Where the row stands, as errors name it ('FILE, line 2'), and its cells by column.

    Raises:
      DataError: the ending is another, or as the file's own reader says.
    """
    readers = {'.csv': read_csv, '.jsonl': read_jsonl, '.parquet': read_parquet}
    if path.suffix not in readers:
        raise DataError(f'{path}: expected a file that ends in .csv, .jsonl or .parquet')
    unit = 'row' if path.suffix == '.parquet' else 'line'
    for number, row in readers[path.suffix](path, columns, repairs):
        yield f'{path}, {unit} {number}', row


def read_csv(path: pathlib.Path, columns: Sequence[str], repairs: Repairs) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line, {column: cell}) of every row that is not blank, holding one row at a time.

    UTF-8 with or without a byte order mark; cells may be quoted and then hold newlines.

    Args:
      path: the file, with a header.
      columns: those that must be there; others are passed on as they are.
      repairs: counts the blank rows.

    Yields:
      The line on which the row begins, counted from 1 (the header's), and its cells.

    Raises:
      DataError: the file is missing, empty, not UTF-8 or not CSV, lacks a column, has two of one name, or has a row of
        another width.
    """
    csv.field_size_limit(CELL_CHARACTERS)
    reader = csv.reader(_lines(path, newline=''), strict=True)
    rows = 0
    line = 1
    try:
        header = next(reader, [])
        if not header:
            raise EmptyFileError(f'{path}: empty')
        _require(columns, header, f'{path}, line 1: no column')
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise DataError(f'{path}, line 1: two columns {", ".join(map(repr, twice))}, expected one of each name')
        line = reader.line_num + 1
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                repairs.add('blank row', f'{path.name}, line {line}')
            elif len(cells) != len(header):
                raise DataError(f'{path}, line {line}: {len(cells)} cells, but the header has {len(header)}')
            else:
                rows += 1
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f'{path}, line {line}: not CSV from here on ({error}); is a quote left open?') from error
    if not rows:
        raise EmptyFileError(f'{path}: empty, it has a header but no rows')


def read_jsonl(path: pathlib.Path, columns: Sequence[str], repairs: Repairs) -> Iterator[tuple[int, Row]]:
    """Yields (line, object) of every line that is not blank; arguments and errors as for `read_csv`."""
    rows = 0
    for line, text in enumerate(_lines(path, newline='\n'), start=1):
        if not text.strip():
            repairs.add('blank row', f'{path.name}, line {line}')
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f'{path}, line {line}: not JSON ({error})') from error
        if not isinstance(row, dict):
            raise DataError(
                f'{path}, line {line}: expected an object with {", ".join(columns)}, found {text.strip()[:60]}'
            )
        _require(columns, row, f'{path}, line {line}: no field')
        rows += 1
        yield line, row
    if not rows:
        raise EmptyFileError(f'{path}: empty, it has no rows')


def read_parquet(path: pathlib.Path, columns: Sequence[str], repairs: Repairs) -> Iterator[tuple[int, Row]]:
    """Yields (row, {column: cell}), rows counted from 1; arguments and errors as for `read_csv`."""
    del repairs  # a blank row of a Parquet file would be one of nulls, which the caller judges
    try:
        with pq.ParquetFile(path) as file:
            _require(columns, file.schema_arrow.names, f'{path}: no column')
            if not file.metadata.num_rows:
                raise EmptyFileError(f'{path}: empty, it has no rows')
            rows = (row for batch in file.iter_batches(ROWS_PER_READ) for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f'{path}: not a Parquet file that can be read ({reason})') from error
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror or str(error).splitlines()[0]})') from error


def names_in(value: Any, where: str, column: str) -> list[str]:
    """The names that a cell lists: a list, or text with one name a line or written as a list (`['a', 'b']`).

    Raises:
      DataError: the cell is neither.
    """
    names = value
    if value is None:
        names = []
    elif isinstance(value, str):
        names = value.splitlines()
        if value.startswith('[') and value.endswith(']'):
            try:
                names = ast.literal_eval(value)
            except (ValueError, SyntaxError) as error:
                raise DataError(f'{where}: {column} is {value[:60]!r}, which starts like a list but is none') from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{where}: {column} is {_short(value)}, expected URIs or labels')
    return [name for name in names if name.strip()]


def text_in(value: Any, where: str, column: str) -> str:
    """The text of a cell; '' if there is none.

    Raises:
      DataError: the cell is a number, a list or an object.
    """
    if value is None:
        return ''
    if not isinstance(value, str):
        raise DataError(f'{where}: {column} is {_short(value)}, expected text')
    return value


def _short(value: Any) -> str:
    return f'{str(value)[:60]!r} ({type(value).__name__})'


def _require(columns: Sequence[str], found, message: str) -> None:
    if missing := [column for column in columns if column not in found]:
        raise DataError(f'{message} {missing[0]!r}; found {", ".join(map(str, found))[:300]}')


def _lines(path: pathlib.Path, newline: str) -> Iterator[str]:
    """The lines of a text file, one in memory at a time."""
    try:
        with open(path, encoding='utf-8-sig', newline=newline) as file:
            for number, line in enumerate(file, start=1):
                if '\0' in line:
                    raise DataError(f'{path}, line {number}: a NUL byte; expected text in UTF-8, not UTF-16 or binary')
                yield line
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise DataError(_where_not_utf8(path)) from error


def _where_not_utf8(path: pathlib.Path) -> str:
    """Says on which line a file stops being UTF-8, which a reader of blocks does not know."""
    with open(path, 'rb') as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f'0x{line[error.start]:02x}'
                return f'{path}, line {number}: byte {byte} is not UTF-8; save the file as UTF-8'
    return f'{path}: not UTF-8; save the file as UTF-8'
