"""Tasks by name: those of WorkBench and the zero-shot ones, a dataset's held-out texts, and any CSV file."""

import dataclasses
import functools
import logging
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from uwe_jax.data.graph import open_dataset
from uwe_jax.evaluation.tasks import RankingTask, held_out_tasks
from uwe_jax.io.buckets import local_copy
from uwe_jax.io.paths import check_local, parse
from uwe_jax.workbench.sources import onet, skillmatch, vacancies
from uwe_jax.workbench.sources.esco import job_to_skill, read_release, skill_normalisation, skill_to_job
from uwe_jax.workbench.sources.pairs import from_csv

logger = logging.getLogger(__name__)


# The location of each kind of data within a folder that has them all.
PLACES = {
    'esco': 'esco_1.2.0',
    'esco_1.1.0': 'esco_1.1.0',
    'jobbert': 'workbench/jobbert_titles_val.csv',
    'jobbert_occupations': 'workbench/esco_1.0_occupations_en.csv',
    'house': 'workbench/skill_extraction_house_validation.csv',
    'tech': 'workbench/skill_extraction_tech_validation.csv',
    'techwolf': 'workbench/skill_extraction_techwolf_test.csv',
    'skillskape': 'workbench/skillskape_dev.csv',
    'skillmatch': 'workbench/skillmatch_1k.csv',
    'onet': 'onet',
}
# Datasets of the Hugging Face Hub for data without a path. ESCO and O*NET must be downloaded from their portals.
HUB = {
    'jobbert': 'TechWolf/JobBERT-evaluation-dataset@test',
    'house': 'TechWolf/skill-extraction-house@test',
    'tech': 'TechWolf/skill-extraction-tech@test',
    'techwolf': 'TechWolf/skill-extraction-techwolf@test',
    'skillskape': 'jjzha/skillskape@test',
    'skillmatch': 'TechWolf/SkillMatch-1K@test',
}
HOW = {
    'esco': 'the folder of ESCO 1.2.0, CSV in English, from its portal',
    'esco_1.1.0': 'the folder of ESCO 1.1.0, CSV in English, from its portal',
    'jobbert_occupations': "occupations_en.csv of ESCO 1.0, from ESCO's portal",
    'onet': f"a folder with {onet.TECHNOLOGIES} of O*NET's database, as CSV, or with its text files",
}


@dataclasses.dataclass(frozen=True)
class Definition:
    """How a task is made.

    Attributes:
      title: says in one line what is ranked.
      data: the kinds of data that it needs.
      make: makes the task from the location of each kind.
      expected: the published numbers of queries and targets (paper, table of the tasks).
    """

    title: str
    data: tuple[str, ...]
    make: Callable[..., RankingTask]
    expected: tuple[int, int] | None = None


_esco = functools.lru_cache(maxsize=2)(read_release)


def _extraction(name: str) -> Callable[[str, str], RankingTask]:
    return lambda sentences, folder: vacancies.skill_extraction(name, sentences, _esco(folder))


OTHER_SIZE = 'not the published size: another split, release or copy, or equal queries are one here'
SENTENCES = 'vacancy sentences to ESCO skills'
TASKS = {
    'job_to_skill': Definition(
        'job titles to ESCO skills', ('esco',), lambda folder: job_to_skill(_esco(folder)), (3039, 13939)
    ),
    'skill_to_job': Definition(
        'ESCO skills to job titles', ('esco',), lambda folder: skill_to_job(_esco(folder)), (13492, 3039)
    ),
    'job_normalisation': Definition(
        'vacancy titles to ESCO occupations',
        ('jobbert', 'jobbert_occupations'),
        vacancies.job_normalisation,
        (15463, 2942),
    ),
    'skill_normalisation': Definition(
        'alternative names to ESCO skills', ('esco',), lambda folder: skill_normalisation(_esco(folder)), (72008, 13939)
    ),
    'house': Definition(f'{SENTENCES} (House)', ('house', 'esco_1.1.0'), _extraction('house'), (262, 13891)),
    'tech': Definition(f'{SENTENCES} (Tech)', ('tech', 'esco_1.1.0'), _extraction('tech'), (338, 13891)),
    'techwolf': Definition(
        f'{SENTENCES} (TechWolf)', ('techwolf', 'esco_1.1.0'), _extraction('techwolf'), (326, 13891)
    ),
    'skillskape': Definition(f'{SENTENCES} (SkillSkape)', ('skillskape', 'esco_1.1.0'), _extraction('skillskape')),
    'skill_similarity': Definition(
        'skills to related skills (SkillMatch-1K)', ('skillmatch',), skillmatch.skill_similarity, (900, 2648)
    ),
    'onet_job_to_skill': Definition('O*NET occupations to technologies', ('onet',), onet.job_to_skill),
    'onet_skill_to_job': Definition('O*NET technologies to occupations', ('onet',), onet.skill_to_job),
}


def load_tasks(names: Sequence[str], data: Mapping[str, str]) -> list[RankingTask]:
    """Makes tasks from their files.

    Args:
      names: from `TASKS`; `held_out:DATASET` for the texts that `python -m data_prep build` held out of a dataset; or
        `csv:PATH`, see `from_csv`.
      data: the location of each kind of data in `PLACES`, here or in a bucket; the key '' is a folder with the layout
        of `PLACES`. Data without a location are loaded from the Hugging Face Hub, see `HUB`.

    Raises:
      ValueError: a name is unknown, or a file is missing or malformed; the message names the file and the row.
    """
    data = {name: str(local_copy(parse(path))) for name, path in data.items()}
    for name, path in data.items():
        if name and name not in PLACES:
            raise ValueError(f'data {name!r}: expected one of {", ".join(PLACES)}')
        if not name and not pathlib.Path(path).expanduser().is_dir():
            raise ValueError(f'--data={path}: no such folder; expected a folder, or NAME=PATH')
    tasks = []
    for name in names:
        kind, _, rest = name.partition(':')
        if kind == 'csv' and rest:
            check_local(rest)
            tasks.append(from_csv(rest))
        elif kind == 'held_out' and rest:
            tasks += _held_out(rest)
        elif name in TASKS:
            tasks.append(_make(name, TASKS[name], data))
        else:
            raise ValueError(f'task {name!r}: expected {", ".join(TASKS)}, held_out:DATASET or csv:PATH')
    for task in tasks:
        expected = 'no published size' if task.expected is None else '{:,} x {:,} published'.format(*task.expected)
        logger.info('%s: %s x %s, %s', task.name, f'{len(task.queries):,}', f'{len(task.targets):,}', expected)
    return tasks


def task_names(text: str) -> list[str]:
    """The names in a list with commas. A path may contain commas: only before another task does one end its name."""
    another = '|'.join(rf'{name}\s*(?:,|$)' for name in TASKS)
    return [name.strip() for name in re.split(rf',(?=\s*(?:csv:|held_out:|{another}))', text)]


def read_places(words: Sequence[str]) -> dict[str, str]:
    """The locations for `load_tasks`, from NAME=PATH, or FOLDER for the name ''.

    Raises:
      ValueError: a path is empty, or a name repeats.
    """
    paths: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition('=')
        if not equals:
            name, path = '', word
        if not path:
            raise ValueError(f'--data={word}: expected NAME=PATH or a folder')
        if name in paths:
            raise ValueError(f'--data={word}: {name or "a folder"} is given twice, expected one path')
        paths[name] = path
    return paths


def _held_out(dataset: str) -> list[RankingTask]:
    tasks = held_out_tasks(open_dataset(dataset))
    if not tasks:
        raise ValueError(f'{dataset}: nothing was held out; expected a dataset built with --held_out_occupations')
    title = f'held out of {pathlib.Path(dataset).name}'
    return [dataclasses.replace(task, name=f'held_out_{task.name}', title=title) for task in tasks]


def _make(name: str, definition: Definition, data: Mapping[str, str]) -> RankingTask:
    task = definition.make(*(_place(kind, name, data) for kind in definition.data))
    size = len(task.queries), len(task.targets)
    notes = (task.note, '' if definition.expected in (None, size) else OTHER_SIZE)
    note = '; '.join(filter(None, notes))
    return dataclasses.replace(task, title=definition.title, expected=definition.expected, note=note)


def _place(kind: str, task: str, data: Mapping[str, str]) -> str:
    """The location of a kind of data.

    Raises:
      ValueError: there is none.
    """
    if kind in data:
        return data[kind]
    if '' in data and (path := pathlib.Path(data['']).expanduser() / PLACES[kind]).exists():
        return str(path)
    if kind in HUB:
        return HUB[kind]
    raise ValueError(f'task {task}: no {kind}; give --data={kind}=PATH, {HOW[kind]}')
