"""Reading a release of ESCO: the CSV files that its portal ships, in any of its languages."""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence

from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import Row, read_rows

ATTRIBUTION = 'This service uses the ESCO classification of the European Commission.'
RELATIONS = ('essential', 'optional')  # the stronger first
_TRANSLATED = ('skills', 'occupations')  # the files of which there is one for each language
ENGLISH = ('en',)  # the languages of a release by default


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
    folder: pathlib.Path,
    repairs: Repairs,
    clean: Callable[[str], str] = str.strip,
    strict: bool = True,
    languages: Sequence[str] = ENGLISH,
) -> Esco:
    """Reads one release.

    Args:
      folder: holds skills_LANGUAGE.csv and occupations_LANGUAGE.csv for each language, and the relations, which are the
        same in all: occupationSkillRelations_LANGUAGE.csv (as 1.2.0 has it) or occupationSkillRelations.csv (as 1.1.0).
      repairs: counts what was repaired.
      clean: brings each label into the form in which labels are compared.
      strict: whether a relation to a concept that the other files do not have is an error; else it is dropped.
      languages: the first is that of preferred labels and descriptions; all labels of the others are alternatives.

    Raises:
      DataError: a file or column is missing, a label is empty, two different rows have one URI, or a relation has an
        unknown type or, if `strict`, an unknown URI.
    """
    skills_files, occupations_files = ([_find(folder, name, one) for one in languages] for name in _TRANSLATED)
    relations_file = _find(folder, 'occupationSkillRelations', languages[0])
    skills = _read_languages(skills_files, 'skill', clean, repairs)
    occupations = _read_languages(occupations_files, 'occupation', clean, repairs)
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
    return Esco(skills, occupations, relations, [*skills_files, *occupations_files, relations_file])


def _find(folder: pathlib.Path, name: str, language: str) -> pathlib.Path:
    """The file of a name, to which the portal adds the language (for relations, in later releases only).

    Upper and lower case do not matter. Relations join URIs, so those of any language will do.
    """
    if not folder.is_dir():
        raise DataError(f'{folder}: no such directory, expected the folder of an ESCO release')
    files = {path.name.lower(): path for path in folder.iterdir()}
    others = sorted(file for file in files if re.fullmatch(rf'{name}_..\.csv', file, re.IGNORECASE))
    wanted = [f'{name}_{language}.csv', f'{name}.csv', *(others if name not in _TRANSLATED else ())]
    for file in wanted:
        if path := files.get(file.lower()):
            return path
    languages = ', '.join(file[-6:-4] for file in others)
    raise DataError(
        f'{folder / wanted[0]}: missing, and so is {name}.csv; '
        'expected the CSV files of an ESCO release in this language'
        + (f', but the folder has it in: {languages}' if others else '')
    )


def _read_languages(
    files: Sequence[pathlib.Path], kind: str, clean: Callable[[str], str], repairs: Repairs
) -> dict[str, Concept]:
    """The concepts of the first file, with the labels of the other files among their alternatives."""
    first, *others = (read_concepts(file, kind, clean, repairs) for file in files)
    for other in others:
        for uri, concept in first.items():
            if uri in other:
                names = dict.fromkeys((*concept.labels, *other[uri].labels))
                first[uri] = dataclasses.replace(concept, alternatives=tuple(names)[1:])
    return first


def read_concepts(path: pathlib.Path, kind: str, clean: Callable[[str], str], repairs: Repairs) -> dict[str, Concept]:
    """Reads the skills or the occupations of a release, by URI.

    Args:
      path: the portal's file, in one language.
      kind: `skill` or `occupation`, for what `repairs` counts.
      clean, repairs: as for `read_esco`.

    Raises:
      DataError: as `read_esco`.
    """
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
