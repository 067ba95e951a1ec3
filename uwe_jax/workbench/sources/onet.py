"""O*NET's occupations and technologies: targets that training never sees (the paper's zero-shot setting)."""

import pathlib

from uwe_jax.evaluation.tasks import RankingTask, joined
from uwe_jax.workbench.sources.hub import read_rows

TECHNOLOGIES = 'technology_skills.csv'  # of O*NET's database, as CSV


def job_to_skill(folder: str) -> RankingTask:
    """Each occupation's title, and the technologies that it uses."""
    pairs = _used(folder)
    return joined('onet_job_to_skill', pairs, sorted({technology for _, technology in pairs}))


def skill_to_job(folder: str) -> RankingTask:
    """Each technology, and the occupations that use it."""
    pairs = [(technology, title) for title, technology in _used(folder)]
    return joined('onet_skill_to_job', pairs, sorted({title for _, title in pairs}), 'query')


def _used(folder: str) -> list[tuple[str, str]]:
    """(title, technology) of all rows."""
    path = pathlib.Path(folder).expanduser() / TECHNOLOGIES
    return [(row.required_text('Title'), row.required_text('Example')) for row in read_rows(str(path))]
