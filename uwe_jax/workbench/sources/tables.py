"""Rows of a task's file: CSV on this machine, or a dataset of the Hugging Face Hub."""

import csv
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = tuple[str, Mapping[str, Any]]  # where it stands, for messages; and its cells
ELSE = 'give its CSV file with --data=NAME=FILE'


def read_rows(source: str) -> Iterator[Row]:
    """Yields the rows of a table.

    Args:
      source: a CSV file, or NAME@SPLIT of a dataset on the Hub, which needs the extra `workbench`.

    Raises:
      ValueError: the file is not there, not UTF-8, not CSV or without rows, or the Hub does not have the dataset; names
        the file and the row.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_file():
        return _csv_rows(path)
    if '@' in source:
        return _hub_rows(*source.split('@', 1))
    raise ValueError(f'{source}: not a file; expected a CSV file, or NAME@SPLIT of a dataset on the Hugging Face Hub')


def text(row: Row, *names: str) -> str:
    """The text in the first of these columns that the table has, without the spaces around it.

    Raises:
      ValueError: it has none of them, or the cell is blank or no text; names the file and the row.
    """
    where, cells = row
    column = _column(row, names)
    value = cells[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'{where}: {value!r} in {column!r}, expected a text')
    return value.strip()


def lines(row: Row, name: str) -> list[str]:
    """The lines of a cell with several labels, distinct, without blank ones; none where the cell is empty.

    Raises:
      ValueError: as `text`, but for a blank cell.
    """
    value = row[1][_column(row, (name,))] or ''
    return list(dict.fromkeys(line.strip() for line in value.split('\n') if line.strip()))


def _column(row: Row, names: Sequence[str]) -> str:
    where, cells = row
    for name in names:
        if name in cells:
            return name
    found = ', '.join(map(str, cells))[:300]
    raise ValueError(f'{where}: no column {" or ".join(map(repr, names))}; found {found}')


def _csv_rows(path: pathlib.Path) -> Iterator[Row]:
    row = 1
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            for cells in csv.DictReader(file, strict=True):
                where = f'{path}, row {row}'
                if None in cells or None in cells.values():
                    raise ValueError(f'{where}: more or fewer cells than the header has')
                yield where, cells
                row += 1
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not UTF-8 ({error})') from error
    except csv.Error as error:
        raise ValueError(f'{path}, row {row}: not CSV ({error})') from error
    if row == 1:
        raise ValueError(f'{path}: no rows, expected a header and rows')


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{name}: needs {error.name}: pip install -c constraints.txt -e '.[workbench]'; or {ELSE}"
        ) from error
    try:
        dataset: Any = datasets.load_dataset(name, split=split)
    except Exception as error:  # many types: no network, no such dataset, no permission
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise ValueError(f'{name}: not to be had from the Hugging Face Hub ({reason}); {ELSE}') from error
    for number, cells in enumerate(dataset, start=1):
        yield f'{name}@{split}, row {number}', cells
