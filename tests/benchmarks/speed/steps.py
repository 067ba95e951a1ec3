"""How fast training is: its padding, its steps against an earlier commit and sentence-transformers, its growth."""

import collections
import functools
import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks import interaction as interaction_benchmark
from tests.benchmarks.speed import data
from tests.benchmarks.speed.machine import alone, medians
from tests.benchmarks.speed.table import DTYPES, NO_PEER, Row, Setting
from tests.benchmarks.speed.training import Texts, Training, experiment
from uwe_jax.data.graph import GRAPHS, open_dataset
from uwe_jax.data.packed_plan import ROW
from uwe_jax.interaction import late_interaction
from uwe_jax.training.config import Config
from uwe_jax.training.metrics import read_lines

BEFORE = '3776c7e'  # the last commit that encoded every side padded
PLANNED_STEPS = 200


def padding(setting: Setting) -> Iterator[Row]:
    """The share of real tokens."""
    for dataset, skills, goal in ((setting.esco, 512, '≥ 0.95'), (setting.sample, 32, '≥ 0.88')):
        config = experiment(**{'data.dir': str(dataset), 'data.batch_size': skills})
        plan = config.packed_plan(open_dataset(dataset), devices=1)
        batches = [plan(step) for step in range(PLANNED_STEPS)]
        real = statistics.mean(sum(int(length.sum()) for length in batch.length.values()) for batch in batches)
        texts = sum(int((length > 0).sum()) for batch in batches for length in batch.length.values())
        left_out = sum(int(batch.left_out.sum()) for batch in batches)
        computed = plan.rows * ROW
        yield Row(
            f'real tokens in training, {skills} x 4 of `{dataset.name}`, {PLANNED_STEPS} steps',
            f'{real:,.0f} per step, {left_out / (texts + left_out):.2%} of the texts left out',
            f'{computed:,} computed',
            real / computed,
            goal,
        )


def quickstart(setting: Setting) -> Iterator[Row]:
    """The quickstart's steps here and at an earlier commit, in turns."""
    what = "real tokens/s, a quickstart's training step"
    try:
        before = extracted(BEFORE, setting.work / 'before')
    except (OSError, subprocess.CalledProcessError):
        yield Row(what, f'not run: commit {BEFORE} is not here, it needs the history of the git repository')
        return
    speeds = collections.defaultdict(list)
    for turn in range(2):
        for name, checkout in (('before', before), ('now', pathlib.Path.cwd())):
            workdir = setting.work / f'quickstart_{name}_{turn}'
            speeds[name] += trained(checkout, setting, workdir)
    now, then = (statistics.median(speeds[name]) for name in ('now', 'before'))
    yield Row(what, f'{now:,.0f}', f'{then:,.0f} at {BEFORE}', now / then, '≥ 5')


def extracted(commit: str, folder: pathlib.Path) -> pathlib.Path:
    """The files of a commit."""
    with tempfile.TemporaryFile() as archive:
        subprocess.run(['git', 'archive', commit], stdout=archive, stderr=subprocess.PIPE, check=True)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as files:
            files.extractall(data.empty(folder), filter='data')
    return folder


def trained(checkout: pathlib.Path, setting: Setting, workdir: pathlib.Path) -> list[float]:
    """Real tokens per second of some quickstart steps; the first two steps, which compile and warm up, do not count."""
    steps = 2 + setting.options.steps
    changes = {'init': setting.model, 'data.dir': setting.sample, 'steps': steps, 'run.log_every': 1}
    with open(workdir.with_suffix('.log'), 'w') as log:
        subprocess.run(
            [
                *(sys.executable, '-m', 'uwe_jax.main', '--config=configs/uwe.py:quickstart', f'--workdir={workdir}'),
                *(f'--config.{field}={value}' for field, value in changes.items()),
            ],
            cwd=checkout,
            env=os.environ | {'PYTHONPATH': str(checkout)},
            stdout=log,
            stderr=log,
            check=True,
        )
    return [line['speed/tokens'] for line in read_lines(workdir / 'metrics.jsonl')[2:]]


def train(setting: Setting) -> Iterator[Row]:
    """A step of 64 skills. Each program has a process of its own, as memory that another one used slows it down."""
    dataset = open_dataset(setting.full)
    plan = recipe(setting, 64, 'float32').packed_plan(dataset, devices=1)
    texts = Texts(dataset)(plan(0).plan)
    count = len(texts[0]) + sum(len(targets) for _, targets in texts[1])
    for dtype in DTYPES:
        took = {'ours': alone(seconds_of_steps, setting, dtype)}
        if importlib.util.find_spec('sentence_transformers'):
            for precision in ('float32',) if dtype == 'float32' else ('bfloat16 autocast', 'bfloat16 weights'):
                took[precision] = alone(seconds_of_peer_steps, setting, precision, texts)
        best = min(took.keys() - {'ours'}, key=lambda name: took[name], default=None)
        yield Row(
            f'texts/s, a training step of 64 skills and {count - 64} targets, {dtype}',
            f'{count / took["ours"]:,.1f}',
            f'{count / took[best]:,.1f}, {best}' if best else NO_PEER,
            took[best] / took['ours'] if best else None,
            '≥ 1.5',
        )


def seconds_of_steps(setting: Setting, dtype: str) -> float:
    """The median time of this project's steps on the first batch."""
    run = Training(setting.model, recipe(setting, 64, dtype))
    [batch] = run.batches(1)
    return medians({'ours': functools.partial(run.step, batch)}, setting.options.steps)['ours']


def seconds_of_peer_steps(setting: Setting, precision: str, texts: tuple) -> float:
    """The median time of sentence-transformers' steps on the same texts."""
    from tests.benchmarks.speed import peers

    step = functools.partial(peers.Training(setting.model, precision), *texts)
    return medians({precision: step}, setting.options.steps)[precision]


def recipe(setting: Setting, skills: int, dtype: str) -> Config:
    """The paper's recipe without distractors: the texts are those of the dataset."""
    changes = {'data.dir': str(setting.full), 'data.batch_size': skills, 'data.distractor_probability': 0.0}
    return experiment(**changes, **{'model.dtype': dtype, 'interaction.dtype': dtype})


def growth(setting: Setting) -> Iterator[Row]:
    """Steps of more and more skills."""
    for skills in map(int, setting.options.skills.split(',')):
        yield alone(step_of, setting, skills)


def step_of(setting: Setting, skills: int) -> Row:
    """A step, and late interaction on its own."""
    run = Training(setting.model, recipe(setting, skills, 'bfloat16'))
    [batch] = run.batches(1)
    tokens = int(sum(texts.length.sum() for texts in batch.texts.values()))
    calls = {'step': functools.partial(run.step, batch), 'interaction': interaction_of(run, batch)}
    took = medians(calls, setting.options.steps)
    return Row(
        f'a step of {skills} x 4, {tokens:,} real tokens, bfloat16',
        f'{took["step"]:.2f} s, {tokens / took["step"]:,.0f} tokens/s',
        f'{took["interaction"]:.2f} s of interaction',
        took['interaction'] / took['step'],
    )


def interaction_of(run: Training, batch) -> Callable:
    """Late interaction of a batch's skills with the targets of each graph, and its gradient, on random embeddings."""
    rng = np.random.default_rng(0)
    embeddings = {
        side: jnp.asarray(
            rng.standard_normal((len(texts.length), run.plan.lengths[side], interaction_benchmark.WIDTH), np.float32),
            'bfloat16',
        )
        for side, texts in batch.texts.items()
    }
    length = {side: texts.length for side, texts in batch.texts.items()}

    @jax.jit
    @jax.grad
    def gradient(embeddings, length):
        total = jnp.zeros(())
        for graph in GRAPHS:
            sides = embeddings['skill'], length['skill'], embeddings[graph], length[graph]
            total += sum(jnp.sum(s) for s in late_interaction(*sides, run.config.score))
        return total

    return functools.partial(gradient, embeddings, length)
