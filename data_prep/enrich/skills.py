"""The titles that skills have without a model, and the skills that have too few."""

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
    """By skill URI, the titles of the vacancies that need the skill, with repetitions; errors as in `vacancy_edges`."""
    skills = skill_nodes(esco)
    uris = list(skills.values())
    titles: dict[str, list[str]] = {}
    for title, nodes in vacancy_titles(files, columns, SkillNames(esco.skills, numbers(skills)), repairs):
        for uri in (uri for node in nodes for uri in uris[node]):
            titles.setdefault(uri, []).append(title)
    return titles


def real_titles(esco: Esco, also: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The titles of every skill that were not proposed by a model.

    Args:
      esco: all titles of an occupation are titles of the skills related to it.
      also: by skill URI, titles from other sources, in any order and with repetitions.

    Returns:
      By skill URI, sorted titles that differ in more than case, spaces and Unicode form. Of those that do not, ESCO's
      is taken, otherwise the shortest, and then the first by code points.
    """
    titles: dict[str, dict[str, str]] = {uri: {} for uri in esco.skills}
    for occupation, related in esco.relations.items():
        for title in esco.occupations[occupation].labels:
            for uri in related:
                _add(titles[uri], title)
    for uri, more in also.items():
        others: dict[str, str] = {}
        for title in more:
            if text := normalise(title):
                _add(others, text)
        titles[uri] = others | titles[uri]
    return {uri: sorted(by_key.values()) for uri, by_key in titles.items()}


def _add(titles: dict[str, str], title: str) -> None:
    key = match_key(title)
    titles[key] = min(titles.get(key, title), title, key=lambda text: (len(text), text))


def choose(
    skills: Mapping[str, SkillTitles], titles: int, limit: int | None, named: pathlib.Path | None
) -> list[SkillTitles]:
    """Chooses the skills with too few real titles, in ESCO's order.

    Args:
      skills: by URI.
      titles: how many are enough.
      limit: the most skills to choose.
      named: a file with one URI or preferred label per line; only these skills are chosen from.

    Raises:
      DataError: the file cannot be read, a line does not name exactly one skill, or no skill is left.
    """
    wanted = set(skills) if named is None else _read_skills(named, skills)
    few = [skill for uri, skill in skills.items() if uri in wanted and len(skill.real) < titles]
    chosen = few[:limit]
    logger.info(
        '%d of %d skills have fewer than %d distinct titles; chosen: %d',
        sum(len(skill.real) < titles for skill in skills.values()),
        len(skills),
        titles,
        len(chosen),
    )
    if not chosen:
        raise DataError(f'no skill that was chosen has fewer than {titles} titles: nothing to do')
    return chosen


def _read_skills(path: pathlib.Path, skills: Mapping[str, SkillTitles]) -> set[str]:
    """The URIs of a file with one URI or preferred label per line."""
    by_label: dict[str, list[str]] = {}
    for uri, titles in skills.items():
        by_label.setdefault(titles.skill.label, []).append(uri)
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
            meaning = f'the label of {len(uris)} skills' if uris else 'unknown'
            raise DataError(f'{path}, line {line}: {text[:200]!r} is {meaning}; expected the URI or label of one skill')
        wanted.add(uris[0])
    return wanted
