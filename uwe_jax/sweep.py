"""Sweeps τ_a on the held-out texts: python -m uwe_jax.sweep --model=DIR --data=DATASET --output=FILE.png."""

import dataclasses
import json
import logging
import pathlib

from absl import app, flags

from uwe_jax import plots
from uwe_jax.data.graph import open_dataset
from uwe_jax.evaluation.tasks import held_out_tasks, sampled
from uwe_jax.io import console
from uwe_jax.io.files import whole_file
from uwe_jax.ranking import Ranker
from uwe_jax.workbench.sweep import TEMPERATURES, check_temperature_counts, read_temperatures, sweep, table

logger = logging.getLogger(__name__)


MODEL = flags.DEFINE_string(
    'model', None, 'An export, or a plain MPNet model: a directory or a Hub name.', required=True
)
DATA = flags.DEFINE_string('data', None, 'What `python -m data_prep build --output` made.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'The PNG file to write; the numbers go beside it, as JSON.', required=True)
TEMPERATURE = flags.DEFINE_list(
    'temperatures', [f'{t:g}' for t in TEMPERATURES], "τ_a, separated by commas; the model's own is added."
)
MAX_QUERIES = flags.DEFINE_integer('max_queries', None, 'Queries of each task at most; all by default.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'Of the choice of queries where there are more.', lower_bound=0)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    del argv
    return console.run(measure_and_draw)


def measure_and_draw() -> None:
    """Prints MAP and the mean entropy of A's rows at every temperature, writes them as JSON, and draws them."""
    output = pathlib.Path(OUTPUT.value)
    plots.check_output(output)
    temperatures = read_temperatures(TEMPERATURE.value)
    dataset = open_dataset(DATA.value)
    tasks = held_out_tasks(dataset)
    if not tasks:
        raise ValueError(f'{DATA.value}: nothing is held out; build it with --held_out_occupations above 0')
    if MAX_QUERIES.value is not None:
        tasks = [sampled(task, MAX_QUERIES.value, SEED.value) for task in tasks]
    ranker = Ranker.from_pretrained(MODEL.value, check=check_temperature_counts)
    rows = list(sweep(ranker, tasks, temperatures))
    print(table(rows))
    settings = {
        'model': MODEL.value,
        'data': dataset.fingerprint,
        'score': dataclasses.asdict(ranker.pair_score),
        'max_queries': MAX_QUERIES.value,
        'seed': SEED.value,
    }
    numbers = output.with_suffix('.json')
    with whole_file(numbers) as partial:
        partial.write_text(json.dumps(settings | {'rows': rows}, indent=2) + '\n')
    plots.save(plots.temperature_sweep(rows, ranker.pair_score), output)
    logger.info('wrote %s and %s', output, numbers)


if __name__ == '__main__':
    app.run(main)
