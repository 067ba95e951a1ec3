"""Evaluation sets: the user's, as tables, and what a dataset holds out of its own graphs."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from uwe_jax.data.graph import GRAPHS, Dataset
from uwe_jax.io.errors import DataError, NoColumnError
from uwe_jax.io.tables import read_rows


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Pairs, or queries alone, that training must not contain.

    Attributes:
      name: in reports; unique.
      held_out: whether it was held out of the training data. Then its queries must not be there either.
      pairs: (query, target); a target is '' where there are only queries.
    """

    name: str
    held_out: bool
    pairs: Sequence[tuple[str, str]]


def read_evaluation(argument: str) -> Evaluation:
    """Reads an evaluation set.

    Args:
      argument: FILE, FILE:QUERY or FILE:QUERY:TARGET. QUERY and TARGET are columns, by default `query` and, if there is
        one, `target`. A cell of targets lists them as `Row.names` says.

    Raises:
      DataError: it cannot be read, or lacks a column.
    """
    name, *columns = [argument] if pathlib.Path(argument).is_file() else argument.split(':')
    if len(columns) > 2 or not all(columns):
        raise DataError(f'--eval={argument}: expected FILE, FILE:QUERY or FILE:QUERY:TARGET')
    query, target = [*columns, *('query', 'target')[len(columns) :]]
    pairs: dict[tuple[str, str], None] = {}
    try:
        for row in read_rows(pathlib.Path(name), (query, target)[: max(len(columns), 1)]):
            if (text := row.text(query)).strip():
                pairs |= dict.fromkeys((text, answer) for answer in row.names(target) or [''])
    except NoColumnError as error:
        raise DataError(f'{error}; name them: --eval=FILE:QUERY:TARGET') from error
    return Evaluation(argument, False, list(pairs))


def held_out_evaluations(dataset: Dataset, skills: Sequence[str]) -> Iterator[Evaluation]:
    """What a dataset holds out; `skills` are its skill nodes."""
    for graph in GRAPHS:
        if lines := dataset.held_out(graph):
            yield held_out_evaluation(graph, lines, skills)


def held_out_evaluation(graph: str, lines: Iterable[Mapping[str, Any]], skills: Sequence[str]) -> Evaluation:
    """One graph's held-out texts with the skills that they are joined to.

    Args:
      graph: its name.
      lines: `text`, and the nodes of its `skills`.
      skills: the texts of the skill nodes.
    """
    pairs = [(line['text'], skills[int(skill)]) for line in lines for skill in line['skills']]
    return Evaluation(f'eval/{graph}.jsonl', True, pairs)
