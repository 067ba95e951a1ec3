"""Reading a user's texts: a CSV file's column, a JSONL file's field, or a file's lines."""

import csv
import json
import pathlib
from collections.abc import Iterator
from typing import TextIO


def read_texts(path: pathlib.Path, column: str, flag: str = '--column') -> Iterator[str]:
    """Yields the texts of a file, without the spaces around them; blank ones are left out.

    Args:
      path: ends in .csv, in .jsonl, or holds one text a line.
      column: of a CSV file, or field of each JSONL line.
      flag: by which the user names it.

    Raises:
      ValueError: a row lacks the column or holds no text there, or the file is not UTF-8; names the file and the row.
    """
    rows = {'.csv': _csv_rows, '.jsonl': _jsonl_rows}.get(path.suffix.lower(), _lines)
    row = 1
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            for text in rows(file, column, flag):
                if not isinstance(text, str):
                    raise ValueError(f'{text!r} in {column!r}, expected a text; {flag} names the column')
                if text := text.strip():
                    yield text
                row += 1
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not UTF-8 ({error})') from error
    except (ValueError, csv.Error) as error:
        raise ValueError(f'{path}, row {row}: {error}') from error


def _csv_rows(file: TextIO, column: str, flag: str) -> Iterator[object]:
    reader = csv.DictReader(file, strict=True)
    names = reader.fieldnames or []
    if names.count(column) != 1:
        raise ValueError(f'expected one column {column!r}, found {", ".join(names)}; {flag} names it')
    for row in reader:
        yield row[column]


def _jsonl_rows(file: TextIO, column: str, flag: str) -> Iterator[object]:
    del flag
    for line in file:
        value = json.loads(line) if line.strip() else {column: ''}
        yield value.get(column) if isinstance(value, dict) else value


def _lines(file: TextIO, column: str, flag: str) -> Iterator[object]:
    del column, flag
    yield from file
