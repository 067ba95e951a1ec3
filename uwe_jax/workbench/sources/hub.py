"""The tables that tasks are made of: a file on this machine, or a dataset of the Hugging Face Hub."""

import pathlib
from collections.abc import Iterator
from typing import Any

from uwe_jax.io import tables
from uwe_jax.io.tables import Row

REMEDY = 'give its file with --data=NAME=FILE'


def read_rows(source: str) -> Iterator[Row]:
    """Yields the rows of a table.

    Args:
      source: a file as `uwe_jax.io.tables.read_rows` takes it; or NAME@SPLIT, a dataset of the Hub, which needs the
        extra `workbench`.

    Raises:
      ValueError: as `uwe_jax.io.tables.read_rows`; or the Hub does not have the dataset.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_file():
        return tables.read_rows(path)
    if '@' in source:
        return _hub_rows(*source.split('@', 1))
    raise ValueError(f'{source}: not a file; expected a table, or NAME@SPLIT of a dataset on the Hugging Face Hub')


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{name}: needs {error.name}: pip install -c constraints.txt -e '.[workbench]'; or {REMEDY}"
        ) from error
    try:
        dataset: Any = datasets.load_dataset(name, split=split)
    except Exception as error:  # many types: no network, no such dataset, no permission
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise ValueError(f'{name}: cannot be loaded from the Hugging Face Hub ({reason}); {REMEDY}') from error
    for number, cells in enumerate(dataset, start=1):
        yield Row(f'{name}@{split}', f'row {number}', cells)
