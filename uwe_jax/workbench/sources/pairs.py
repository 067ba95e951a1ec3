"""A task from any table of (query, target) pairs, without code."""

import pathlib

from uwe_jax.evaluation.tasks import RankingTask, joined
from uwe_jax.workbench.sources.hub import read_rows


def from_csv(words: str) -> RankingTask:
    """The task of a file; equal queries are one.

    Args:
      words: PATH; PATH:QUERY:TARGET with the names of its columns, by default `query` and `target`; or
        PATH:QUERY:TARGET:SPACE, where the column TARGET of a second table is the target space. By default, the targets
        of the file are.

    Raises:
      ValueError: the words have another form, a target is not in the target space, or as `read_rows`.
    """
    path, *rest = [words] if pathlib.Path(words).is_file() else words.split(':')
    if len(rest) not in (0, 2, 3):
        raise ValueError(f'csv:{words}: expected csv:PATH, csv:PATH:QUERY:TARGET or csv:PATH:QUERY:TARGET:SPACE')
    query, target, *space = rest or ('query', 'target')
    rows = list(read_rows(path))
    targets = dict.fromkeys(row.required_text(target) for row in (read_rows(*space) if space else rows))
    pairs = [(row.required_text(query), row.required_text(target)) for row in rows]
    for row, (_, right) in zip(rows, pairs, strict=True):
        if right not in targets:
            raise ValueError(f'{row.place}: target {right!r} is not one of the {len(targets)} of {space[0]}')
    name = pathlib.Path(path).stem
    return joined(f'{name}_{query}_to_{target}' if rest else name, pairs, list(targets))
