"""Reading a release of ESCO: the CSV files that its portal ships, in English."""

import dataclasses
import pathlib
from collections.abc import Callable

from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import Row, read_rows

ATTRIBUTION = 'This service uses the ESCO classification of the European Commission.'
RELATIONS = ('essential', 'optional')  # the stronger first


@dataclasses.dataclass(frozen=True)
class Concept:
    """A skill or an occupation.

    Attributes:
      uri: its identifier.
      label: the preferred label.
      alternatives: the other labels, in the file's order; distinct, and none equal to `label`.
      description: '' where the file has no such column.
    """

    uri: str
    label: str
    alternatives: tuple[str, ...]
    description: str

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, the preferred one first."""
        return self.label, *self.alternatives


@dataclasses.dataclass(frozen=True)
class Esco:
    """One release.

    Attributes:
      skills, occupations: by URI, in the files' order.
      relations: {occupation's URI: {skill's URI: `essential` or `optional`}}, in the file's order.
      files: those that were read.
    """

    skills: dict[str, Concept]
    occupations: dict[str, Concept]
    relations: dict[str, dict[str, str]]
    files: list[pathlib.Path]


def read_esco(
    folder: pathlib.Path, repairs: Repairs, clean: Callable[[str], str] = str.strip, strict: bool = True
) -> Esco:
    """Reads one release.

    Args:
      folder: holds skills_en.csv, occupations_en.csv, and occupationSkillRelations_en.csv (as 1.2.0 has it) or
        occupationSkillRelations.csv (as 1.1.0).
      repairs: counts what was repaired.
      clean: brings each label into the form in which labels are compared.
      strict: whether a relation to a concept that the other files do not have is an error; else it is dropped.

    Raises:
      DataError: a file or column is missing, a label is empty, two different rows have one URI, or a relation has an
        unknown type or, if `strict`, an unknown URI.
    """
    skills_file, occupations_file = _find(folder, 'skills'), _find(folder, 'occupations')
    relations_file = _find(folder, 'occupationSkillRelations')
    skills = _read_concepts(skills_file, 'skill', clean, repairs)
    occupations = _read_concepts(occupations_file, 'occupation', clean, repairs)
    relations: dict[str, dict[str, str]] = {}
    for row in read_rows(relations_file, ('occupationUri', 'relationType', 'skillUri'), repairs):
        occupation, kind, skill = (row.text(column).strip() for column in ('occupationUri', 'relationType', 'skillUri'))
        if kind not in RELATIONS:
            raise DataError(f'{row.place}: relationType {kind!r}, expected {" or ".join(RELATIONS)}')
        if unknown := _unknown(occupation, skill, occupations, skills):
            if strict:
                raise DataError(f'{row.place}: unknown {unknown}; are all files of one release?')
            repairs.add('relation to an unknown concept, dropped', f'{row.short_place}: {unknown}')
            continue
        skills_of = relations.setdefault(occupation, {})
        if skill in skills_of:
            repairs.add('repeated relation, essential wins', f'{row.short_place}: {occupation} {skill}')
            kind = min(kind, skills_of[skill], key=RELATIONS.index)
        skills_of[skill] = kind
    return Esco(skills, occupations, relations, [skills_file, occupations_file, relations_file])


def _find(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of a name, to which the portal adds the language (for relations, in later releases only)."""
    if not folder.is_dir():
        raise DataError(f'{folder}: no such directory, expected the folder of an ESCO release')
    files = [folder / f'{name}_en.csv', folder / f'{name}.csv']
    for file in files:
        if file.is_file():
            return file
    raise DataError(
        f'{files[0]}: missing, and so is {files[1].name}; expected the CSV files of an ESCO release, in English'
    )


def _read_concepts(path: pathlib.Path, kind: str, clean: Callable[[str], str], repairs: Repairs) -> dict[str, Concept]:
    concepts: dict[str, Concept] = {}
    first: dict[str, Row] = {}
    for row in read_rows(path, ('conceptUri', 'preferredLabel'), repairs):
        uri, label = row.text('conceptUri').strip(), clean(row.text('preferredLabel'))
        if not uri:
            raise DataError(f'{row.place}: empty conceptUri')
        if not label:
            raise DataError(f'{row.place}: empty preferredLabel of {uri}')
        if uri in first:
            if row.cells != first[uri].cells:
                raise DataError(
                    f'{row.place}: {uri} again, with other content than in {first[uri].position}; '
                    'expected one row per URI'
                )
            repairs.add(f'{kind}: repeated row, dropped', f'{row.short_place}: {uri}')
            continue
        first[uri] = row
        names = _distinct(row, clean, repairs)
        if label in names:
            names.remove(label)
            repairs.add(f'{kind}: its own label among its alternatives, dropped', f'{row.short_place}: {label}')
        concepts[uri] = Concept(uri, label, tuple(names), row.text('description'))
    return concepts


def _distinct(row: Row, clean: Callable[[str], str], repairs: Repairs) -> list[str]:
    """The alternative labels, one per line of their cell; cleaned, each once, in their order."""
    names: dict[str, str] = {}
    for line in row.text('altLabels').splitlines():
        name = clean(line)
        if not name:
            repairs.add('blank line in a cell, dropped', row.short_place)
        elif name not in names:
            names[name] = line
        elif names[name] == line:
            repairs.add('repeated label in a cell, dropped', f'{row.short_place}: {name}')
        else:
            repairs.add('label that differs from another only in spaces, dropped', f'{row.short_place}: {name}')
    return list(names)


def _unknown(occupation: str, skill: str, occupations: dict[str, Concept], skills: dict[str, Concept]) -> str | None:
    """Which end of a relation is not in the release."""
    if occupation not in occupations:
        return f'occupation {occupation!r}'
    return None if skill in skills else f'skill {skill!r}'
