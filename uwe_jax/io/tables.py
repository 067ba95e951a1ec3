"""Reading tables: rows of CSV, TSV, JSONL and Parquet files, each with its place for error messages.

The standard library reads all but Parquet: pyarrow's readers of CSV and JSON do not tell on which line a row begins.
"""

import ast
import csv
import functools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from uwe_jax.io.errors import DataError, EmptyFileError, NoColumnError
from uwe_jax.io.repairs import Repairs

CELL_CHARACTERS = 10_000_000  # a longer cell is a quote left open; this bounds the memory that it takes
ROWS_PER_READ = 10_000  # of a Parquet file


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
        """The text in a column; '' if the cell is empty or the row does not have the column.

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
          DataError: the row has none of them, or the cell is blank or not a text.
        """
        value = self.cell(*columns)
        if not isinstance(value, str) or not value.strip():
            column = next(column for column in columns if column in self.cells)
            raise DataError(f'{self.place}: {column} is {_short(value)}, expected text')
        return value.strip()

    def names(self, column: str) -> list[str]:
        """The names that a cell lists: a list, or text with one name per line or written as a list (`['a', 'b']`).

        Raises:
          DataError: the cell is neither.
        """
        value = names = self.cells.get(column)
        if value is None:
            names = []
        elif isinstance(value, str):
            names = value.splitlines()
            if value.startswith('[') and value.endswith(']'):
                try:
                    names = ast.literal_eval(value)
                except (ValueError, SyntaxError) as error:
                    raise DataError(
                        f'{self.place}: {column} is {value[:60]!r}, which looks like a list but cannot be read as one; '
                        "expected, for example, ['SQL']"
                    ) from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f'{self.place}: {column} is {_short(value)}, expected a list of names')
        return [name for name in names if name.strip()]


def read_rows(path: pathlib.Path, columns: Iterable[str] = (), repairs: Repairs | None = None) -> Iterator[Row]:
    """Reads a table row by row, as the file's suffix says: .csv, .tsv, .jsonl or .parquet.

    Text files are UTF-8, with or without a byte order mark. Blank rows are skipped.

    Args:
      path: the file; CSV and TSV have a header.
      columns: those that every row must have. Other columns are passed on as they are.
      repairs: counts the blank rows.

    Raises:
      DataError: the suffix is another, the file cannot be read or is not in its format, or a row lacks a column; names
        the file and the line or row.
      EmptyFileError: there are no rows.
    """
    if path.suffix.lower() not in READERS:
        raise DataError(f'{path}: expected a file that ends in {", ".join(READERS)}')
    empty = True
    for row in READERS[path.suffix.lower()](path, Repairs() if repairs is None else repairs):
        for column in columns:
            row.cell(column)
        empty = False
        yield row
    if empty:
        raise EmptyFileError(f'{path}: empty, it has no rows')


def read_texts(path: pathlib.Path, column: str, flag: str = '--column') -> Iterator[str]:
    """Yields the texts in a column of a table, or the lines of any other file; stripped, without blank ones.

    Args:
      path: a table as `read_rows` takes it, or a file with one text per line. A line of JSONL may also be a string.
      column: of the table.
      flag: by which the user names the column.

    Raises:
      DataError: as `read_rows`; or a cell is not a text.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        yield from filter(None, map(str.strip, _lines(path)))
        return
    for row in _jsonl_rows(path, Repairs(), string_column=column) if suffix == '.jsonl' else read_rows(path):
        try:
            row.cell(column)
        except NoColumnError as error:
            # A list without a header cannot be told from a column of another name, so it is not guessed.
            no_header = len(row.cells) == 1 and suffix in ('.csv', '.tsv')
            hint = '; or, if the file is one text per line without a header, rename it to .txt' if no_header else ''
            raise DataError(f'{error}; {flag} names it{hint}') from error
        if text := row.text(column).strip():
            yield text


def _csv_rows(path: pathlib.Path, repairs: Repairs, delimiter: str = ',') -> Iterator[Row]:
    """The rows of a CSV file; cells may be quoted and then hold newlines. The header is on line 1."""
    csv.field_size_limit(CELL_CHARACTERS)
    reader = csv.reader(_lines(path, newline=''), delimiter=delimiter, strict=True)
    line = 1  # on which the row begins
    try:
        header = next(reader, [])
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


def _jsonl_rows(path: pathlib.Path, repairs: Repairs, string_column: str | None = None) -> Iterator[Row]:
    """The objects of a file with one JSON object per line; a string stands for an object with the `string_column`."""
    for number, line in enumerate(_lines(path, newline='\n'), start=1):
        if not line.strip():
            repairs.add('blank row', f'{path.name}, line {number}')
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise DataError(f'{path}, line {number}: not JSON ({error})') from error
        if string_column is not None and isinstance(cells, str):
            cells = {string_column: cells}
        if not isinstance(cells, dict):
            raise DataError(f'{path}, line {number}: expected a JSON object, found {line.strip()[:60]}')
        yield Row(str(path), f'line {number}', cells)


def _parquet_rows(path: pathlib.Path, repairs: Repairs) -> Iterator[Row]:
    """The rows of a Parquet file, counted from 1."""
    del repairs  # a blank row would be one of nulls, which callers judge
    import pyarrow as pa  # not before: most tables are not Parquet, and the import takes long
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = (cells for batch in file.iter_batches(ROWS_PER_READ) for cells in batch.to_pylist())
            for number, cells in enumerate(rows, start=1):
                yield Row(str(path), f'row {number}', cells)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f'{path}: not a Parquet file that can be read ({reason})') from error
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror or str(error).splitlines()[0]})') from error


READERS = {
    '.csv': _csv_rows,
    '.tsv': functools.partial(_csv_rows, delimiter='\t'),
    '.jsonl': _jsonl_rows,
    '.parquet': _parquet_rows,
}


def _lines(path: pathlib.Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a text file, one in memory at a time; `newline` as for `open`."""
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
    """The line on which a file stops being UTF-8, which a decoder of blocks does not know."""
    with open(path, 'rb') as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = f'0x{line[error.start]:02x}'
                return f'{path}, line {number}: byte {byte} is not UTF-8; save the file as UTF-8'
    return f'{path}: not UTF-8; save the file as UTF-8'


def _short(value: Any) -> str:
    return f'{str(value)[:60]!r} ({type(value).__name__})'
