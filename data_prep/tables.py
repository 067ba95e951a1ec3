"""Rows of CSV and JSONL files with their line numbers; errors for what is unreadable, counts for what was mended."""

import collections
import csv
import io
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

EXAMPLES = 3  # of each kind of repair, kept for the manifest


class DataError(ValueError):
    """An input cannot be used. The message is one line: file, line or field, what was found, what was expected."""


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


def read_csv(path: pathlib.Path, columns: Sequence[str], repairs: Repairs) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (line, {column: cell}) of every row that is not blank.

    UTF-8 with or without a byte order mark; cells may be quoted and then hold newlines.

    Args:
      path: the file, with a header.
      columns: those that must be there; others are passed on as they are.
      repairs: counts the blank rows.

    Yields:
      The line on which the row begins, counted from 1 (the header's), and its cells.

    Raises:
      DataError: the file is missing, empty, not UTF-8 or not CSV, lacks a column, or has a row of another width.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=''), strict=True)
    rows = 0
    line = 1
    try:
        header = next(reader)
        if missing := [column for column in columns if column not in header]:
            raise DataError(f'{path}, line 1: no column {missing[0]!r}; found {", ".join(header)}')
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
        raise DataError(f'{path}: empty, it has a header but no rows')


def read_jsonl(path: pathlib.Path, columns: Sequence[str], repairs: Repairs) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, object) of every line that is not blank; arguments and errors as for `read_csv`."""
    rows = 0
    for line, text in enumerate(_read_text(path).split('\n')[:-1], start=1):
        if not text.strip():
            repairs.add('blank row', f'{path.name}, line {line}')
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f'{path}, line {line}: not JSON ({error})') from error
        if not isinstance(row, dict):
            raise DataError(f'{path}, line {line}: expected an object with {", ".join(columns)}, found {text[:60]}')
        if missing := [column for column in columns if column not in row]:
            raise DataError(f'{path}, line {line}: no field {missing[0]!r}; found {", ".join(row)}')
        rows += 1
        yield line, row
    if not rows:
        raise DataError(f'{path}: empty, it has no rows')


def _read_text(path: pathlib.Path) -> str:
    """Reads a whole file, ending in a newline."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from error
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise DataError(
            f'{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8'
        ) from error
    if not text.strip():
        raise DataError(f'{path}: empty')
    return text if text.endswith('\n') else text + '\n'
