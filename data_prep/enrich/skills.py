"""Which titles skills have without a model, and which skills have too few."""

import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from data_prep.enrich.state import SkillTitles
from data_prep.pairs import numbers, skill_nodes
from data_prep.skill_names import SkillNames
from data_prep.vacancies import Columns, vacancy_titles
from uwe_jax.data.text import match_key, normalise
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import Esco
from uwe_jax.io.repairs import Repairs

logger = logging.getLogger(__name__)


def titles_of_vacancies(
    files: Sequence[pathlib.Path], columns: Columns, esco: Esco, repairs: Repairs
) -> dict[str, list[str]]:
    """The titles of the vacancies that need a skill, by its URI, with repetitions; errors as `vacancy_edges`."""
    skills = skill_nodes(esco)
    uris = list(skills.values())
    found: dict[str, list[str]] = {}
    for title, nodes in vacancy_titles(files, columns, SkillNames(esco.skills, numbers(skills)), repairs):
        for uri in (uri for node in nodes for uri in uris[node]):
            found.setdefault(uri, []).append(title)
    return found


def real_titles(esco: Esco, also: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The titles of every skill that are no model's proposal.

    Args:
      esco: the preferred and alternative titles of an occupation are titles of each skill related to it.
      also: by skill URI, titles of other sources, in any order and with repetitions.

    Returns:
      By skill URI: titles that differ in more than case, spaces and Unicode form, sorted; of those that do not, ESCO's,
      and of several others the shortest and then the first by code points.
    """
    found: dict[str, dict[str, str]] = {uri: {} for uri in esco.skills}
    for occupation, related in esco.relations.items():
        for title in esco.occupations[occupation].labels:
            for uri in related:
                _add(found[uri], title)
    for uri, more in also.items():
        others: dict[str, str] = {}
        for title in more:
            if text := normalise(title):
                _add(others, text)
        found[uri] = others | found[uri]
    return {uri: sorted(own.values()) for uri, own in found.items()}


def _add(titles: dict[str, str], title: str) -> None:
    key = match_key(title)
    titles[key] = min(titles.get(key, title), title, key=lambda text: (len(text), text))


def choose(
    skills: Mapping[str, SkillTitles], titles: int, limit: int | None, named: pathlib.Path | None
) -> list[SkillTitles]:
    """Skills with too few real titles, in ESCO's order.

    Args:
      skills: by URI.
      titles: how many are enough.
      limit: so many skills at most.
      named: a file with one URI or preferred label a line, to choose from those skills alone.

    Raises:
      DataError: the file cannot be read or names what is not one skill, or no skill is left.
    """
    wanted = set(skills) if named is None else _read_skills(named, skills)
    few = [skill for uri, skill in skills.items() if uri in wanted and len(skill.real) < titles]
    chosen = few[:limit]
    logger.info(
        '%d of %d skills have fewer than %d distinct titles; %d of them are chosen',
        sum(len(skill.real) < titles for skill in skills.values()),
        len(skills),
        titles,
        len(chosen),
    )
    if not chosen:
        raise DataError(f'no skill that was chosen has fewer than {titles} titles: nothing to do')
    return chosen


def _read_skills(path: pathlib.Path, skills: Mapping[str, SkillTitles]) -> set[str]:
    """The URIs of a file with one URI or preferred label a line."""
    by_label: dict[str, list[str]] = {}
    for uri, own in skills.items():
        by_label.setdefault(own.skill.label, []).append(uri)
    wanted = set()
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: cannot be read as UTF-8 text ({error})') from error
    for line, text in enumerate(map(str.strip, lines), start=1):
        if not text:
            continue
        uris = [text] if text in skills else by_label.get(normalise(text), [])
        if len(uris) != 1:
            found = f'the label of {len(uris)} skills' if uris else 'unknown'
            raise DataError(f'{path}, line {line}: {text[:200]!r} is {found}; expected the URI or label of one skill')
        wanted.add(uris[0])
    return wanted
