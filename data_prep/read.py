"""Reading a build's sources: the release, the vacancies and the synthetic titles become three graphs of pairs."""

import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from data_prep.pairs import Nodes, Pairs, PairsBuilder, add_id, numbers
from data_prep.sentences import sentences_of_descriptions
from data_prep.vacancies import SYNTHETIC, VACANCY, Columns, SkillNames, check_tables, synthetic_edges, vacancy_edges
from uwe_jax.data.graph import GRAPHS
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import Concept, Esco, read_esco
from uwe_jax.io.files import files_of
from uwe_jax.io.repairs import Repairs

logger = logging.getLogger(__name__)


Row = tuple[str, str, list[int]]  # a text, the id that it bears, and the skill nodes that it is joined to


class Read(NamedTuple):
    """All that was read.

    Attributes:
      esco: the release.
      skills: the skill nodes.
      names: what skill names of vacancies and synthetic titles meant.
      pairs: by graph, what is to be held out included.
      repeated: by graph, how many pairs were given again.
      vacancies, synthetic: the files.
      stand_in: whether the skills' descriptions stand in for sentences.
    """

    esco: Esco
    skills: Nodes
    names: SkillNames
    pairs: dict[str, Pairs]
    repeated: dict[str, int]
    vacancies: list[pathlib.Path]
    synthetic: list[pathlib.Path]
    stand_in: bool


def read(
    release: pathlib.Path,
    vacancy_globs: Sequence[str],
    columns: Columns,
    synthetic_globs: Sequence[str],
    relations: str,
    repairs: Repairs,
) -> Read:
    """Reads the release, the vacancies and the synthetic titles, in this order.

    Args:
      release: the folder of an ESCO release.
      vacancy_globs, columns: as `vacancy_edges` reads them.
      synthetic_globs: what `enrich` wrote.
      relations: `all`, or `essential` ones alone.
      repairs: collects what is repaired or dropped.

    Raises:
      DataError: an input cannot be used, or no skill in the vacancies is known.
    """
    vacancies = sorted(files_of(vacancy_globs, '--vacancies'))
    synthetic = sorted(files_of(synthetic_globs, '--synthetic'))
    check_tables(vacancies, columns)
    esco = read_esco(release, repairs, normalise)
    skills = skill_nodes(esco)
    number = numbers(skills)
    names = SkillNames(esco.skills, number)
    graphs = {name: PairsBuilder() for name in GRAPHS}
    for row in _job_rows(esco, number, relations):
        graphs['job'].add(*row)
    for name, text, nodes in vacancy_edges(vacancies, columns, names, repairs):
        graphs[name].add(text, VACANCY, nodes)
    for title, nodes in synthetic_edges(synthetic, names, repairs):
        graphs['job'].add(title, SYNTHETIC, nodes)
    if (vacancies or synthetic) and not names.matched:
        raise DataError(_nothing_matched([*vacancy_globs, *synthetic_globs], release, names))
    stand_in = not graphs['sentence'].given
    for row in _stand_in_rows(esco, number) if stand_in else ():
        graphs['sentence'].add(*row)
    for row in _alternative_rows(esco.skills, number, repairs):
        graphs['alternative'].add(*row)
    pairs = {name: graph.pairs() for name, graph in graphs.items()}
    repeated = {name: graph.given - len(pairs[name].skill) for name, graph in graphs.items()}
    return Read(esco, skills, names, pairs, repeated, vacancies, synthetic, stand_in)


def _stand_in_rows(esco: Esco, number: Mapping[str, int]) -> Iterator[Row]:
    """The sentences of the skills' own descriptions."""
    logger.info("no sentences in --vacancies: those of the skills' own descriptions stand in")
    rows = sentences_of_descriptions(esco.skills, number)
    first = next(rows, None)
    if first is None:
        raise DataError(
            'no sentences: skills_en.csv has no descriptions to stand in for them; give some by --vacancies'
        )
    yield first
    yield from rows


def _job_rows(esco: Esco, number: Mapping[str, int], relations: str) -> Iterator[Row]:
    """Each title of each occupation, with the occupation's skills."""
    for uri, occupation in esco.occupations.items():
        skills = skills_of(esco, uri, number, relations)
        for title in occupation.labels:
            yield title, uri, skills


def skill_nodes(esco: Esco) -> Nodes:
    """The skills as nodes: those of one label are one."""
    nodes: Nodes = {}
    for skill in esco.skills.values():
        add_id(nodes, skill.label, skill.uri)
    return nodes


def skills_of(esco: Esco, occupation: str, number: Mapping[str, int], relations: str) -> list[int]:
    """The skill nodes of an occupation."""
    related = esco.relations.get(occupation, {})
    return sorted({number[esco.skills[skill].label] for skill, kind in related.items() if relations in ('all', kind)})


def _alternative_rows(skills: Mapping[str, Concept], number: Mapping[str, int], repairs: Repairs) -> Iterator[Row]:
    """Each alternative name with its skill.

    One that is also another skill's label is joined to that skill too: in a batch with both, it would else be a
    negative of the skill whose name it is.
    """
    for uri, skill in skills.items():
        for name in skill.alternatives:
            yield name, uri, [number[skill.label]]
            if name in number:
                repairs.add("alternative that is another skill's label, joined to both", f'{skill.label}: {name}')
                yield name, uri, [number[name]]


def _nothing_matched(globs: Sequence[str], release: pathlib.Path, names: SkillNames) -> str:
    """Says that no skill of the vacancies is known."""
    given = ', '.join(globs)
    examples = ', '.join(repr(miss['name']) for miss in names.unmatched()[:3])
    if not examples:
        return f'{given}: no row has a skill; give them skills with: python -m data_prep tag'
    return f'{given}: no skill is known, for example {examples}; expected URIs or labels of the release {release}'
