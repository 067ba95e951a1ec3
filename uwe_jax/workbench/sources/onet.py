"""O*NET's occupations and technologies: targets that training never sees (the paper's zero-shot setting)."""

import pathlib

from uwe_jax.evaluation.tasks import RankingTask, joined
from uwe_jax.io.errors import DataError, NoColumnError
from uwe_jax.io.tables import read_rows

TECHNOLOGIES = 'technology_skills.csv'  # of O*NET's database, as CSV with titles
# O*NET's own text files: tables separated by tabs. The titles are in the second.
TEXT_TECHNOLOGIES, TEXT_OCCUPATIONS = 'Technology Skills.txt', 'Occupation Data.txt'
CODE = 'O*NET-SOC Code'


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
    directory = pathlib.Path(folder).expanduser()
    path, suffix = directory / TECHNOLOGIES, '.csv'
    titles = {}
    if not path.exists() and (directory / TEXT_TECHNOLOGIES).exists():
        path, suffix = directory / TEXT_TECHNOLOGIES, '.tsv'
        for row in read_rows(directory / TEXT_OCCUPATIONS, (CODE, 'Title'), suffix=suffix):
            titles[row.text(CODE)] = row.required_text('Title')
    used = []
    for row in read_rows(path, suffix=suffix):
        try:
            title = titles.get(row.text(CODE)) or row.required_text('Title')
        except NoColumnError as error:
            raise DataError(
                f"{error}; expected it there, or O*NET's text files instead: {TEXT_TECHNOLOGIES}, {TEXT_OCCUPATIONS}"
            ) from error
        used.append((title, row.required_text('Example')))
    return used
