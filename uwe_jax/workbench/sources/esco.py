"""Tasks made of an ESCO release itself, as WorkRB 0.6 defines them."""

import pathlib

from uwe_jax.evaluation.tasks import RankingTask, joined
from uwe_jax.io.esco import Esco, read_esco
from uwe_jax.io.repairs import Repairs


def read_release(folder: str) -> Esco:
    """Reads a release as WorkRB does: labels as they are written, and without the relations that lead out of it.

    Raises:
      ValueError: as `read_esco`.
    """
    return read_esco(pathlib.Path(folder).expanduser(), Repairs(), strict=False)


def job_to_skill(esco: Esco) -> RankingTask:
    """Each occupation's preferred label, and the skills that it needs, essential or optional."""
    return joined('job_to_skill', _related(esco), skill_names(esco))


def skill_to_job(esco: Esco) -> RankingTask:
    """Each skill, and the occupations that need it."""
    occupations = sorted({occupation.label for occupation in esco.occupations.values()})
    return joined('skill_to_job', [(skill, job) for job, skill in _related(esco)], occupations, 'query')


def skill_normalisation(esco: Esco) -> RankingTask:
    """Alternative names, and the skills that they name.

    WorkRB keeps the first name of each skill for validation, so it is not in the test. Names of a single character are
    left out. Skills with the same preferred label are one skill.
    """
    # Grouped by label, then by name, as in WorkRB: this order decides which name is a skill's first.
    names: dict[str, list[str]] = {}
    for skill in esco.skills.values():
        names.setdefault(skill.label, []).extend(name for name in skill.alternatives if len(name) > 1)
    skills_of: dict[str, list[str]] = {}
    for skill, alternatives in names.items():
        for name in alternatives:
            skills_of.setdefault(name, []).append(skill)
    seen: set[str] = set()
    test = []
    for name, skills in skills_of.items():
        if seen.issuperset(skills):
            test += [(name, skill) for skill in skills]
        seen.update(skills)
    return joined('skill_normalisation', test, skill_names(esco))


def skill_names(esco: Esco) -> list[str]:
    """The target space of skills."""
    return sorted({skill.label for skill in esco.skills.values()})


def _related(esco: Esco) -> list[tuple[str, str]]:
    """Labels of related occupations and skills."""
    return [
        (esco.occupations[occupation].label, esco.skills[skill].label)
        for occupation, skills in esco.relations.items()
        for skill in skills
    ]
