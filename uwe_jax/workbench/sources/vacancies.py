"""Tasks of annotated vacancies: titles and their occupation, sentences and their skills, as WorkRB 0.6 defines them."""

import dataclasses
import pathlib

from uwe_jax.evaluation.tasks import RankingTask, joined
from uwe_jax.io.esco import Esco, read_concepts
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import Row
from uwe_jax.workbench.sources.esco import skill_names
from uwe_jax.workbench.sources.hub import read_rows

NO_SKILL = ('LABEL NOT PRESENT', 'UNDERSPECIFIED', 'UNK')  # how annotators label a span that names no skill of ESCO


def job_normalisation(titles: str, occupations: str) -> RankingTask:
    """Vacancy titles, and the ESCO occupation of each (JobBERT).

    Args:
      titles: the annotated titles; a table as `read_rows` takes it.
      occupations: the portal's CSV file of the occupations of ESCO 1.0, whose names the annotations use.

    Raises:
      ValueError: as `read_rows`; or an occupation is not in the release.
    """
    release = read_concepts(pathlib.Path(occupations).expanduser(), 'occupation', str.strip, Repairs())
    names = sorted({occupation.label for occupation in release.values()})
    known, pairs = set(names), []
    for row in read_rows(titles):
        occupation = row.required_text('escoJobTitle', 'esco_job_title')
        if occupation not in known:
            raise ValueError(f'{row.place}: occupation {occupation!r} is not one of the {len(names)} of {occupations}')
        pairs.append((row.required_text('vacancyTitle', 'vacancy_job_title'), occupation))
    return joined('job_normalisation', pairs, names)


def skill_extraction(name: str, sentences: str, esco: Esco) -> RankingTask:
    """Vacancy sentences, and the skills in them; a sentence without a skill of the release is not a query.

    The labels `NO_SKILL` are left out, and so are others that are not in the release; the task's note counts those.

    Args:
      name: of the task.
      sentences: a table as `read_rows` takes it. A row has one `label` of a sentence, or all of its `skills`.
      esco: the release whose skills the labels are, 1.1.0.

    Raises:
      ValueError: as `read_rows`; or no sentence has a skill.
    """
    pairs = [(row.required_text('sentence'), label) for row in read_rows(sentences) for label in _labels(row)]
    task = joined(name, pairs, skill_names(esco))
    known = {*NO_SKILL, *task.targets}
    unknown = [label for _, label in pairs if label not in known]
    note = f'labels that are not in the ESCO release: {len(unknown)}, such as {unknown[0]!r}' if unknown else ''
    return dataclasses.replace(task, note=note)


def _labels(row: Row) -> list[str]:
    return row.names('skills') if 'skills' in row.cells else [row.required_text('label')]
