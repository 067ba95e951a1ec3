"""What a build reads: the release, the vacancies and the synthetic titles become three graphs of pairs."""

import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from data_prep.build.options import Options
from data_prep.pairs import Nodes, Pairs, PairsBuilder, numbers, skill_nodes
from data_prep.sentences import split_sentences
from data_prep.skill_names import SkillNames
from data_prep.vacancies import SYNTHETIC, VACANCY, check_tables, synthetic_edges, vacancy_edges
from uwe_jax.data.graph import GRAPHS
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import Concept, Esco, read_esco
from uwe_jax.io.files import files_of
from uwe_jax.io.repairs import Repairs
from uwe_jax.models import download
from uwe_jax.models.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

Joined = tuple[str, str, list[int]]  # a text, the id that it bears, and the skill nodes that it is joined to


class Sources(NamedTuple):
    """Everything that was read.

    Attributes:
      esco: the release.
      skills: the skill nodes.
      names: which skills the names in vacancies and synthetic titles mean.
      pairs: by graph, including those that will be held out.
      repeated: by graph, how many pairs were read more than once.
      vacancies, synthetic: the files.
      stand_in: whether sentences from the skills' descriptions replace those of vacancies.
      tokenizer: cuts the texts.
    """

    esco: Esco
    skills: Nodes
    names: SkillNames
    pairs: dict[str, Pairs]
    repeated: dict[str, int]
    vacancies: list[pathlib.Path]
    synthetic: list[pathlib.Path]
    stand_in: bool
    tokenizer: Tokenizer


def read_sources(options: Options, repairs: Repairs) -> Sources:
    """Reads the release, fetches the tokenizer, and reads the vacancies and the synthetic titles, in this order.

    Args:
      options: what to read.
      repairs: counts what was repaired.

    Raises:
      DataError: an input cannot be used, or none of the vacancies' skills is known.
      FetchError: the tokenizer cannot be downloaded.
    """
    vacancies = sorted(files_of(options.vacancies, '--vacancies'))
    synthetic = sorted(files_of(options.synthetic, '--synthetic'))
    check_tables(vacancies, options.columns)
    esco = read_esco(options.esco, repairs, normalise, languages=options.languages)
    tokenizer = Tokenizer.from_pretrained(download.fetch(options.tokenizer, [download.TOKENIZER]))
    skills = skill_nodes(esco)
    number = numbers(skills)
    names = SkillNames(esco.skills, number)
    graphs = {name: PairsBuilder() for name in GRAPHS}
    for row in _titles(esco, number, options.relations):
        graphs['job'].add(*row)
    language = options.languages[0]
    for graph, text, nodes in vacancy_edges(vacancies, options.columns, names, repairs, tokenizer, language):
        graphs[graph].add(text, VACANCY, nodes)
    for title, nodes in synthetic_edges(synthetic, names, repairs):
        graphs['job'].add(title, SYNTHETIC, nodes)
    if (vacancies or synthetic) and not names.matched:
        raise DataError(_nothing_matched(options, names))
    stand_in = not graphs['sentence'].added
    if stand_in:
        logger.info("no sentences in --vacancies: sentences from ESCO's skill descriptions are used instead")
        for row in _descriptions(esco.skills, number, language):
            graphs['sentence'].add(*row)
        if not graphs['sentence'].added:
            raise DataError(
                f'no sentences: {esco.files[0].name} has no descriptions to use instead; '
                'give sentences with --vacancies'
            )
    for row in _alternatives(esco.skills, number, repairs):
        graphs['alternative'].add(*row)
    pairs = {name: graph.pairs() for name, graph in graphs.items()}
    repeated = {name: graph.added - len(pairs[name].skill) for name, graph in graphs.items()}
    return Sources(esco, skills, names, pairs, repeated, vacancies, synthetic, stand_in, tokenizer)


def skills_of(esco: Esco, occupation: str, number: Mapping[str, int], relations: str) -> list[int]:
    """The skill nodes of an occupation; `relations` is `all`, or `essential` for these alone."""
    related = esco.relations.get(occupation, {})
    return sorted({number[esco.skills[skill].label] for skill, kind in related.items() if relations in ('all', kind)})


def _titles(esco: Esco, number: Mapping[str, int], relations: str) -> Iterator[Joined]:
    """Each title of each occupation, with the occupation's skills."""
    for uri, occupation in esco.occupations.items():
        skills = skills_of(esco, uri, number, relations)
        for title in occupation.labels:
            yield title, uri, skills


def _descriptions(skills: Mapping[str, Concept], number: Mapping[str, int], language: str) -> Iterator[Joined]:
    """The sentences of each skill's description, with the skill."""
    for uri, skill in skills.items():
        for sentence in split_sentences(skill.description, language):
            yield sentence, uri, [number[skill.label]]


def _alternatives(skills: Mapping[str, Concept], number: Mapping[str, int], repairs: Repairs) -> Iterator[Joined]:
    """Each alternative name, with its skill.

    A name that is also another skill's label is joined to that skill too. Otherwise, in a batch with both skills, it
    would be a negative of the skill whose label it is.
    """
    for uri, skill in skills.items():
        for name in skill.alternatives:
            yield name, uri, [number[skill.label]]
            if name in number:
                repairs.add("alternative that is another skill's label, joined to both", f'{skill.label}: {name}')
                yield name, uri, [number[name]]


def _nothing_matched(options: Options, names: SkillNames) -> str:
    globs = ', '.join([*options.vacancies, *options.synthetic])
    examples = ', '.join(repr(miss['name']) for miss in names.unmatched()[:3])
    if not examples:
        return f'{globs}: no row has a skill; give them skills with: python -m data_prep tag'
    return f'{globs}: no skill is known, for example {examples}; expected URIs or labels of the release {options.esco}'
