"""ESCO's CSV files, as the portal ships them, as skills and occupations that are known to be whole."""

import dataclasses
import pathlib
from collections.abc import Iterator

from data_prep.tables import Repairs, read_csv
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError

ATTRIBUTION = 'This service uses the ESCO classification of the European Commission.'
RELATIONS = ('essential', 'optional')  # in order of strength


@dataclasses.dataclass(frozen=True)
class Concept:
    """A skill or an occupation.

    Attributes:
      uri: ESCO's.
      label: the preferred label, normalised.
      alternatives: other labels, normalised, distinct, none equal to `label`.
      description: as ESCO has it; empty where the file has no such column.
    """

    uri: str
    label: str
    alternatives: tuple[str, ...]
    description: str


@dataclasses.dataclass(frozen=True)
class Esco:
    """One release.

    Attributes:
      skills, occupations: by URI, in the files' order.
      relations: by occupation's URI, then by skill's: essential or optional.
      files: what was read.
    """

    skills: dict[str, Concept]
    occupations: dict[str, Concept]
    relations: dict[str, dict[str, str]]
    files: list[pathlib.Path]


def read_esco(directory: pathlib.Path, repairs: Repairs) -> Esco:
    """Reads one release.

    Args:
      directory: holds skills_en.csv, occupations_en.csv, and occupationSkillRelations_en.csv (1.2.0) or
        occupationSkillRelations.csv (1.1.0).
      repairs: counts what was mended.

    Raises:
      DataError: a file or column is missing, a label is empty, two different rows have one URI, or a relation names an
        unknown URI or type.
    """
    if not directory.is_dir():
        raise DataError(f'{directory}: no such directory, expected the folder of an ESCO release')
    skills_path = _find(directory, 'skills')
    occupations_path = _find(directory, 'occupations')
    relations_path = _find(directory, 'occupationSkillRelations')
    skills = _read_concepts(skills_path, 'skill', repairs)
    occupations = _read_concepts(occupations_path, 'occupation', repairs)
    relations = _read_relations(relations_path, skills, occupations, repairs)
    return Esco(skills, occupations, relations, [skills_path, occupations_path, relations_path])


def _find(directory: pathlib.Path, name: str) -> pathlib.Path:
    """The portal adds the language to most files' names, and to relations only in later releases."""
    candidates = [directory / f'{name}_en.csv', directory / f'{name}.csv']
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(
        f'{candidates[0]}: missing (and no {candidates[1].name}); expected in the folder of an ESCO release'
    )


def _read_concepts(path: pathlib.Path, kind: str, repairs: Repairs) -> dict[str, Concept]:
    concepts: dict[str, Concept] = {}
    first: dict[str, tuple[int, dict[str, str]]] = {}
    for line, row in read_csv(path, ('conceptUri', 'preferredLabel'), repairs):
        where = f'{path}, line {line}'
        uri, label = row['conceptUri'].strip(), normalise(row['preferredLabel'])
        if not uri:
            raise DataError(f'{where}: empty conceptUri')
        if not label:
            raise DataError(f'{where}: empty preferredLabel of {uri}')
        if uri in first:
            if row != first[uri][1]:
                raise DataError(
                    f'{where}: {uri} again, with other content than in line {first[uri][0]}; expected one row a URI'
                )
            repairs.add(f'{kind}: repeated row, dropped', f'{path.name}, line {line}: {uri}')
            continue
        first[uri] = line, row
        names = _names(row.get('altLabels', ''), f'{path.name}, line {line}', repairs)
        if label in names:
            names.remove(label)
            repairs.add(f'{kind}: its own label among its alternatives, dropped', f'{path.name}, line {line}: {label}')
        concepts[uri] = Concept(uri, label, tuple(names), row.get('description', ''))
    return concepts


def _names(cell: str, where: str, repairs: Repairs) -> list[str]:
    """The labels of a cell with one a line, normalised, each once, in their order."""
    names: dict[str, str] = {}
    for raw in cell.splitlines():
        name = normalise(raw)
        if not name:
            repairs.add('blank line in a cell, dropped', where)
        elif name not in names:
            names[name] = raw
        elif names[name] == raw:
            repairs.add('repeated label in a cell, dropped', f'{where}: {name}')
        else:
            repairs.add('label that differs from another only in spaces, dropped', f'{where}: {name}')
    return list(names)


def _read_relations(
    path: pathlib.Path, skills: dict[str, Concept], occupations: dict[str, Concept], repairs: Repairs
) -> dict[str, dict[str, str]]:
    relations: dict[str, dict[str, str]] = {}
    for line, row in read_csv(path, ('occupationUri', 'relationType', 'skillUri'), repairs):
        occupation, kind, skill = (row[column].strip() for column in ('occupationUri', 'relationType', 'skillUri'))
        for uri, known, name in ((occupation, occupations, 'occupation'), (skill, skills, 'skill')):
            if uri not in known:
                raise DataError(
                    f'{path}, line {line}: unknown {name} {uri!r}; expected one of {name}s_en.csv; '
                    'are all files of one release?'
                )
        if kind not in RELATIONS:
            raise DataError(f'{path}, line {line}: relationType {kind!r}, expected {" or ".join(RELATIONS)}')
        of_occupation = relations.setdefault(occupation, {})
        if skill in of_occupation:
            repairs.add('repeated relation, essential wins', f'{path.name}, line {line}: {occupation} {skill}')
            kind = min(kind, of_occupation[skill], key=RELATIONS.index)
        of_occupation[skill] = kind
    return relations


def titles(occupation: Concept) -> Iterator[str]:
    """The preferred title first, then the alternative ones."""
    yield occupation.label
    yield from occupation.alternatives
