"""Trains what a user would train otherwise: the same base on the same pairs, with sentence-transformers.

    python -m tests.benchmarks.peer_model --data=DATASET --minutes=180 --output=DIR

Batches are those of `configs/uwe.py:public`, or of another size, without distractors: sentences join their skills as
they are. The loss is multiple negatives on mean-pooled vectors, for every graph; the optimizer AdamW, whose learning
rate rises for a tenth of the time and falls to zero by its end. Only the time that steps take counts, so that the same
command continues an interrupted training. Measure the model with `python -m uwe_jax.workbench --model=peer=DIR:mean`.
Needs the extra `torch`.
"""

import dataclasses
import pathlib
import sys
import time

from tests.benchmarks.speed.peers import Training
from tests.benchmarks.speed.training import Texts, experiment
from uwe_jax.data.graph import open_dataset
from uwe_jax.io import console
from uwe_jax.io.files import check_absent, whole_directory, whole_file
from uwe_jax.models import download

WARMUP = 0.1
SAVE_EVERY = 300  # s


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains the base model with sentence-transformers' multiple-negatives loss for a given time."""

    data: pathlib.Path
    """What `python -m data_prep build --output` made."""
    output: pathlib.Path
    """The directory of the trained model; what is needed to continue lies beside it, in OUTPUT.state."""
    minutes: float = 180
    """How long to train."""
    skills: int = 64
    """How many a batch has, with a target of every kind for each."""
    peak_lr: float = 5e-5
    """The highest learning rate."""
    precision: str = 'float32'
    """float32, bfloat16 autocast, or bfloat16 weights."""
    model: str = download.BASE_MODEL
    """A directory or a Hub name."""


def main(options: Options) -> None:
    """Trains and saves the model."""
    check_absent(options.output)
    dataset = open_dataset(options.data)
    config = experiment('public', **{'data.dir': str(options.data), 'data.batch_size': options.skills})
    texts_of = Texts(dataset)
    plan = config.packed_plan(dataset, devices=1)
    training = Training(download.fetch(options.model), options.precision)
    path = options.output.with_name(f'{options.output.name}.state')
    step, seconds = training.restore(path) if path.exists() else (0, 0.0)
    total, saved = 60 * options.minutes, seconds
    with console.Progress('training', round(total), 's', done=round(seconds)) as progress:
        while seconds < total:
            texts, start = texts_of(plan(step).plan), time.monotonic()
            training.set_rate(options.peak_lr * min(seconds / total / WARMUP, (1 - seconds / total) / (1 - WARMUP)))
            loss = training(*texts)
            took = time.monotonic() - start
            step, seconds = step + 1, seconds + took
            progress.advance(round(seconds) - round(seconds - took), f'step {step}, loss {loss:.4f}')
            if seconds - saved > SAVE_EVERY:
                with whole_file(path) as partial:
                    training.save_state(partial, step, seconds)
                saved = seconds
    with whole_directory(options.output) as partial:
        training.save(partial)
    path.unlink(missing_ok=True)
    print(f'{options.output}: {step} steps of {config.data.batch_size} skills')


if __name__ == '__main__':
    sys.exit(console.command(Options, main))
