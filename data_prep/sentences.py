"""Vacancy sentences with the skills they ask for; or, where there are none, the skills' own descriptions."""

import pathlib
import re
from collections.abc import Iterator, Mapping

from data_prep.esco import Concept
from data_prep.tables import DataError, Repairs, read_csv, read_jsonl
from uwe_jax.data.text import normalise

# The end of a sentence: a mark, and after the space a capital letter or a digit.
_END = re.compile(r'(?<=[.!?])\s+(?=[A-Z0-9])')

Row = tuple[str, str, list[int]]  # a sentence, where it comes from, and the skill nodes that it asks for


def read_sentences(
    path: pathlib.Path, skills: Mapping[str, Concept], number: Mapping[str, int], repairs: Repairs
) -> Iterator[Row]:
    """Reads sentences from a CSV or JSONL file with `sentence` and `skills`.

    In CSV the skills of a sentence stand one a line within the cell, in JSONL as a list; each is a URI or a preferred
    label. Sentences without skills are counted and left out.

    Args:
      path: ends in .csv or .jsonl.
      skills: by URI.
      number: the node of each skill's label.
      repairs: counts what was left out.

    Raises:
      DataError: the file is not as said, or names an unknown skill.
    """
    if path.suffix not in ('.csv', '.jsonl'):
        raise DataError(f'{path}: expected a file that ends in .csv or .jsonl')
    rows = read_csv if path.suffix == '.csv' else read_jsonl
    for line, row in rows(path, ('sentence', 'skills'), repairs):
        where = f'{path}, line {line}'
        if not isinstance(row['sentence'], str):
            raise DataError(f'{where}: sentence is {type(row["sentence"]).__name__}, expected text')
        names = row['skills'].splitlines() if isinstance(row['skills'], str) else row['skills']
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f'{where}: skills is {row["skills"]!r}, expected URIs or labels')
        sentence = normalise(row['sentence'])
        nodes = [_node(name, where, skills, number) for name in names if name.strip()]
        if not sentence:
            repairs.add('blank sentence, dropped', f'{path.name}, line {line}')
        elif not nodes:
            repairs.add('sentence without skills, dropped', f'{path.name}, line {line}: {sentence[:60]}')
        else:
            yield sentence, f'{path.name}:{line}', nodes


def _node(name: str, where: str, skills: Mapping[str, Concept], number: Mapping[str, int]) -> int:
    name = normalise(name)
    label = skills[name].label if name in skills else name
    if label not in number:
        raise DataError(f'{where}: unknown skill {name!r}; expected a URI or a preferred label of skills_en.csv')
    return number[label]


def sentences_of_descriptions(skills: Mapping[str, Concept], number: Mapping[str, int]) -> Iterator[Row]:
    """The sentences of each skill's own description, joined to that skill."""
    for uri, skill in skills.items():
        for part in _END.split(skill.description):
            if sentence := normalise(part):
                yield sentence, uri, [number[skill.label]]
