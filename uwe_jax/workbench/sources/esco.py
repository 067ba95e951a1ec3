"""Tasks made of an ESCO release itself, from the CSV files of its portal (English), as WorkRB 0.6 defines them."""

import dataclasses
import pathlib

from uwe_jax.evaluation.tasks import RankingTask, joined
from uwe_jax.workbench.sources.tables import lines, read_rows, text


@dataclasses.dataclass(frozen=True)
class Esco:
    """What tasks need of a release.

    Attributes:
      skills, occupations: preferred labels by URI, in the files' order.
      alternatives: the other labels of each skill, by its preferred label, in the file's order; where skills share one,
        those of all.
      relations: (occupation's URI, skill's URI), in the file's order.
    """

    skills: dict[str, str]
    occupations: dict[str, str]
    alternatives: dict[str, list[str]]
    relations: list[tuple[str, str]]

    @classmethod
    def read(cls, folder: str) -> 'Esco':
        """Reads a release's folder.

        Raises:
          ValueError: a file is missing, or a row is not as the portal has them; names the file and the row.
        """
        skills, alternatives = {}, {}
        for row in read_rows(_file(folder, 'skills_en.csv')):
            label = skills[text(row, 'conceptUri')] = text(row, 'preferredLabel')
            # A single character is no name that could be normalised.
            names = [name for name in lines(row, 'altLabels') if len(name) > 1 and name != label]
            alternatives.setdefault(label, []).extend(names)
        occupations = {
            text(r, 'conceptUri'): text(r, 'preferredLabel') for r in read_rows(_file(folder, 'occupations_en.csv'))
        }
        relations = [
            (text(row, 'occupationUri'), text(row, 'skillUri'))
            for row in read_rows(_file(folder, 'occupationSkillRelations_en.csv', 'occupationSkillRelations.csv'))
        ]
        return cls(skills, occupations, alternatives, relations)

    @property
    def skill_names(self) -> list[str]:
        """The target space of skills."""
        return sorted(set(self.skills.values()))

    @property
    def occupation_names(self) -> list[str]:
        """The target space of occupations."""
        return sorted(set(self.occupations.values()))

    def related(self) -> list[tuple[str, str]]:
        """Labels of related occupations and skills, as far as both are in the release."""
        return [
            (self.occupations[occupation], self.skills[skill])
            for occupation, skill in self.relations
            if occupation in self.occupations and skill in self.skills
        ]


def job_to_skill(esco: Esco) -> RankingTask:
    """Each occupation's preferred label, and the skills that it needs, essential or optional."""
    return joined('job_to_skill', esco.related(), esco.skill_names)


def skill_to_job(esco: Esco) -> RankingTask:
    """Each skill, and the occupations that need it."""
    return joined('skill_to_job', [(skill, job) for job, skill in esco.related()], esco.occupation_names)


def skill_normalisation(esco: Esco) -> RankingTask:
    """Alternative names, and the skills that they name: those that are not for validation, the first of each skill."""
    skills_of: dict[str, list[str]] = {}
    for skill, names in esco.alternatives.items():
        for name in names:
            skills_of.setdefault(name, []).append(skill)
    seen: set[str] = set()
    test = []
    for name, skills in skills_of.items():
        if seen.issuperset(skills):
            test += [(name, skill) for skill in skills]
        seen.update(skills)
    return joined('skill_normalisation', test, esco.skill_names)


def _file(folder: str, *names: str) -> str:
    """The first of these files that the folder has."""
    for name in names:
        if (path := pathlib.Path(folder).expanduser() / name).is_file():
            return str(path)
    raise ValueError(f'{folder}: no {" or ".join(names)}; expected the CSV files of an ESCO release, in English')
