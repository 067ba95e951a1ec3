"""Trains variants of an experiment at equal steps, measures them, and compares them in one table.

    python -m uwe_jax.ablate --config=configs/uwe.py:quickstart --config.data.dir=DATASET --study=attend,reduce \
      --output=runs/ablations [--config.FIELD=VALUE ...]

With each seed, every variant is trained by `python -m uwe_jax.main` and measured by `python -m uwe_jax.workbench`, in
processes of their own. The same command continues an interrupted study, and studies with the same output share runs:

OUTPUT/VARIANT/seed-N/              the workdir of a run
OUTPUT/VARIANT/seed-N/workbench/    its results, with a report
OUTPUT/ablations.md                 the table of the runs that are measured so far
"""

import copy
import dataclasses
import json
import logging
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from uwe_jax.data.graph import open_dataset
from uwe_jax.distributed.processes import RESTART
from uwe_jax.io import console
from uwe_jax.io.files import write_whole
from uwe_jax.io.paths import check_local
from uwe_jax.training.config import Config
from uwe_jax.training.workdir import FOLDER, check_same, is_complete
from uwe_jax.workbench.models import read_models
from uwe_jax.workbench.registry import load_tasks, read_places, task_names
from uwe_jax.workbench.results import NAMES
from uwe_jax.workbench.study import OWN, REFERENCE, Measured, read_values, render

logger = logging.getLogger(__name__)

CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment: the reference.', lock_config=True)
STUDY = flags.DEFINE_list('study', None, 'Names of studies, separated by commas; or all.', required=True)
STUDIES = flags.DEFINE_string('studies', 'configs/ablations.py', 'The file that defines the studies.')
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds to train each variant with, separated by commas.')
OUTPUT = flags.DEFINE_string('output', None, 'The directory of all runs.', required=True)
TASKS = flags.DEFINE_string('tasks', None, "The workbench's --tasks; by default the texts held out of the dataset.")
DATA = flags.DEFINE_multi_string('data', [], "The workbench's --data.")
MAX_QUERIES = flags.DEFINE_integer('max_queries', None, "The workbench's --max_queries.", lower_bound=2)
SCORE = flags.DEFINE_multi_string(
    'score', [], 'One more way to score each model, beside the one that it was trained with: mean, or attend=both.'
)
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], "The workbench's --dtype.")
METRIC = flags.DEFINE_enum('metric', 'map', ['map', 'rp@10'], 'What the table shows.')
DISCARD = flags.DEFINE_bool(
    'discard_checkpoints',
    False,
    'Remove the checkpoint of a run when it is measured, 1.3 GB for a whole encoder. Other tasks or scores then mean '
    'training it again.',
)

# A run is measured when it is complete, so it need not evaluate; and only its last checkpoint is needed.
WITHIN_A_STUDY = {'run.evaluate_every': 0, 'run.keep': 1}


class CommandFailedError(OSError):
    """A command that a study needs has failed, or was asked to stop."""

    def __init__(self, command: Sequence[str], status: int):
        super().__init__(f'status {status} of: {shlex.join(command)}; the same study continues where this one ended')
        self.exit_status = RESTART if status == RESTART else 1


@dataclasses.dataclass(frozen=True)
class Variant:
    """An experiment and the fields in which it differs from the reference."""

    changes: Mapping[str, Any]
    config: Config

    @property
    def title(self) -> str:
        """For the table."""
        return ', '.join(f'{field}={value}' for field, value in self.changes.items()) or REFERENCE

    @property
    def folder(self) -> str:
        """The name of its directory."""
        return re.sub(r'[^\w.-]+', '-', self.title)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    del argv
    return console.run(ablate)


def ablate() -> None:
    """Trains and measures what is missing, and prints the table.

    Raises:
      ValueError, OSError: an option does not fit, a run was made with other settings, or a command has failed.
    """
    check_local(OUTPUT.value)
    output, base = pathlib.Path(OUTPUT.value), CONFIG.value
    variants = read_variants(base, pathlib.Path(STUDIES.value), STUDY.value)
    seeds = read_seeds(SEEDS.value)
    if base.data.dir is None:
        raise ValueError('data.dir: not given, expected what `python -m data_prep build --output` made')
    folders = [str(variant.config.data.dir) for variant in variants]
    manifests = {folder: open_dataset(folder).manifest for folder in dict.fromkeys(folders)}
    read_models([f'{name}=MODEL{words}' for name, words in scores().items()], DTYPE.value)
    tasks = load_tasks(task_names(TASKS.value), read_places(DATA.value)) if TASKS.value else []
    fingerprints = {task.name: task.fingerprint for task in tasks}
    planned = [(seed, variant, output / variant.folder / f'seed-{seed}') for seed in seeds for variant in variants]
    for seed, variant, workdir in planned:
        check_same(workdir, dataclasses.replace(variant.config, seed=seed), manifests[str(variant.config.data.dir)])
    description = describe(base, variants, manifests[folders[0]]['fingerprint'])
    measured: Measured = {}
    page = ''
    for number, (seed, variant, workdir) in enumerate(planned, 1):
        logger.info('run %d of %d: %s, seed %d', number, len(planned), variant.title, seed)
        train_and_measure(variant, seed, workdir, fingerprints)
        for score, of_tasks in read_values(workdir / 'workbench', METRIC.value).items():
            measured.setdefault((variant.title, score), []).append(of_tasks)
        page = render(measured, description, NAMES[METRIC.value])
        write_whole(output / 'ablations.md', page)
    print(page, end='')


def read_variants(base: ConfigDict, path: pathlib.Path, names: Sequence[str]) -> list[Variant]:
    """The reference, and every variant of some studies that differs from it, each once.

    Args:
      base: the reference.
      path: a file that defines `STUDIES`, see `configs/ablations.py`.
      names: of studies; or `all`.

    Raises:
      ValueError: the file or a study does not exist, or a variant has an unknown field or value.
    """
    try:
        studies: Mapping[str, Sequence[Mapping[str, Any]]] = runpy.run_path(str(path))['STUDIES']
    except (OSError, KeyError) as error:
        raise ValueError(f'--studies={path}: no file that defines STUDIES ({error!r})') from error
    if unknown := [name for name in names if name not in (*studies, 'all')]:
        raise ValueError(f'--study={unknown[0]}: expected all, or some of {", ".join(studies)}')
    variants = [Variant({}, Config.of(base.to_dict()))]
    for name in studies if 'all' in names else names:
        for fields in studies[name]:
            try:
                changes = {field: value for field, value in fields.items() if value_of(base, field) != value}
                config = copy.deepcopy(base)
                config.update_from_flattened_dict(changes)
                config = Config.of(config.to_dict())
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f'{path}, study {name}, {dict(fields)}: {error}') from error
            if changes not in [variant.changes for variant in variants]:
                variants.append(Variant(changes, config))
    return variants


def value_of(config: ConfigDict, field: str) -> Any:
    """The value of a nested field, such as `score.attend`."""
    value: Any = config
    for part in field.split('.'):
        value = value[part]
    return value


def read_seeds(words: Sequence[str]) -> list[int]:
    """The seeds.

    Raises:
      ValueError: there is none, one comes twice, or one is not a whole number from 0.
    """
    if not words or not all(map(str.isdecimal, words)) or len({*map(int, words)}) < len(words):
        raise ValueError(f'--seeds={",".join(words)}: expected different whole numbers from 0, separated by commas')
    return list(map(int, words))


def train_and_measure(variant: Variant, seed: int, workdir: pathlib.Path, tasks: Mapping[str, str]) -> None:
    """Does for one run what is not done yet. `tasks` are the fingerprints of the tasks, by their names."""
    flag = flags.FLAGS['config']
    fields = {**WITHIN_A_STUDY, **config_flags.get_override_values(flag), **variant.changes, 'seed': seed}
    training = [f'--config={config_flags.get_config_filename(flag)}', f'--workdir={workdir}']
    training += [f'--config.{field}={value}' for field, value in fields.items()]
    measuring = [f'--model={name}={workdir}{words}' for name, words in scores().items()]
    measuring += [f'--tasks={TASKS.value or f"held_out:{variant.config.data.dir}"}']
    measuring += [f'--data={words}' for words in DATA.value]
    if MAX_QUERIES.value is not None:
        measuring += [f'--max_queries={MAX_QUERIES.value}']
    measuring += [f'--dtype={DTYPE.value}', f'--output={workdir / "workbench"}']
    command = shlex.join(['python', '-m', 'uwe_jax.workbench', *measuring])
    if is_measured(workdir / 'workbench', command, tasks):
        logger.info('%s: measured before', workdir)
    else:
        if not is_complete(workdir, variant.config.steps):
            run('uwe_jax.main', training)
        run('uwe_jax.workbench', measuring)
    if DISCARD.value:
        shutil.rmtree(workdir / FOLDER, ignore_errors=True)


def scores() -> dict[str, str]:
    """The ways to score each model: names, and what follows the source in the workbench's --model."""
    return {OWN: ''} | {re.sub(r'[^\w.-]+', '-', words): f':{words}' for words in SCORE.value}


def is_measured(output: pathlib.Path, command: str, tasks: Mapping[str, str]) -> bool:
    """Whether a directory has the results of this command, on tasks with these fingerprints."""
    path = output / 'results.json'
    if not path.exists():
        return False
    content = json.loads(path.read_text(encoding='utf-8'))
    measured = {result['task']['name']: result['task']['fingerprint'] for result in content['results']}
    return content['command'] == command and measured == {**measured, **tasks}


def describe(base: ConfigDict, variants: Sequence[Variant], data: str) -> str:
    """What was compared with what, in a few lines."""
    fields = dict.fromkeys(field for variant in variants for field in variant.changes)
    same = ', '.join(f'{field}={value_of(base, field)}' for field in fields)
    size = f'{base.steps} steps of {value_of(base, "data.batch_size")} skills'
    command = shlex.join(['python', '-m', 'uwe_jax.ablate', *sys.argv[1:]])
    of_reference = f' The reference has {same}; every other line differs from it in the fields that it names.'
    return f'`{command}`\n\n{size} on the dataset `{data}`.{of_reference if fields else ""}'


def run(module: str, arguments: Sequence[str]) -> None:
    """Runs a command of this project; if this process is asked to stop, so is that one.

    Raises:
      CommandFailedError: it did not succeed.
    """
    logger.info('%s', shlex.join(['python', '-m', module, *arguments]))
    process = subprocess.Popen([sys.executable, '-m', module, *arguments], stdout=subprocess.DEVNULL)
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status:
        raise CommandFailedError(['python', '-m', module, *arguments], status)


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main, flags_parser=console.parse_config_flags)
