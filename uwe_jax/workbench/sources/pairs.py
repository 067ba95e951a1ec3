"""A task from any CSV file of (query, target), without code."""

import pathlib

from uwe_jax.workbench.sources.tables import read_rows, text
from uwe_jax.workbench.tasks import RankingTask, joined


def from_csv(words: str) -> RankingTask:
    """The task of a file; its targets are all that stand in it, equal queries are one.

    Args:
      words: PATH, or PATH:QUERY:TARGET with the names of its columns, by default `query` and `target`.

    Raises:
      ValueError: the words are not as said, or as `read_rows`.
    """
    path, *columns = [words] if pathlib.Path(words).is_file() else words.split(':')
    if len(columns) not in (0, 2):
        raise ValueError(f'csv:{words}: expected csv:PATH or csv:PATH:QUERY:TARGET')
    query, target = columns or ('query', 'target')
    pairs = [(text(row, query), text(row, target)) for row in read_rows(path)]
    return joined(pathlib.Path(path).stem, pairs, list(dict.fromkeys(other for _, other in pairs)))
