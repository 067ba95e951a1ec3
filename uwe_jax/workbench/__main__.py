"""Measures models on tasks: python -m uwe_jax.workbench --model=NAME=DIR --tasks=house,tech --output=DIR."""

import logging
import pathlib
import shlex
import sys

from absl import app, flags

from uwe_jax.data.graph import open_dataset
from uwe_jax.io import console
from uwe_jax.io.files import whole_file
from uwe_jax.workbench import benchmark, html, markdown, models, results
from uwe_jax.workbench.registry import load_tasks, read_places

logger = logging.getLogger(__name__)


MODEL = flags.DEFINE_multi_string(
    'model',
    None,
    'NAME=SOURCE, or NAME=SOURCE:mean for the cosine of mean-pooled vectors; once for each model. The source is an '
    'export, the workdir of a training run, or a plain MPNet model: a directory or a Hub name. NAME=workrb:CLASS is a '
    'model of WorkRB, such as workrb:BM25Model.',
    required=True,
)
TASKS = flags.DEFINE_list('tasks', None, 'Names of tasks, separated by commas.', required=True)
DATA = flags.DEFINE_multi_string(
    'data', [], 'NAME=PATH: where one kind of data lies; or a folder that has all kinds, see workbench/registry.py.'
)
OUTPUT = flags.DEFINE_string(
    'output', None, 'The directory of the results. What is in it already is not measured again.', required=True
)
BASE = flags.DEFINE_string('base', None, 'The model that the others are compared with; the first by default.')
MAX_QUERIES = flags.DEFINE_integer('max_queries', None, 'Queries of each task at most; all by default.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'Of the choice of queries, and of the bootstrap.', lower_bound=0)
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], "Of the encoders' products.")
TRAINING_DATA = flags.DEFINE_string(
    'training_data', None, 'What `python -m data_prep build` made: gives MAP by how many training titles a skill has.'
)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    del argv
    return console.run(measure)


def measure() -> None:
    """Measures, prints a table, and writes results.json, results.md and report.html."""
    output = pathlib.Path(OUTPUT.value)
    given = [models.read_model(words, DTYPE.value) for words in MODEL.value]
    tasks = load_tasks(TASKS.value, read_places(DATA.value))
    benchmark.check(given, tasks, BASE.value)
    training_data = None if TRAINING_DATA.value is None else open_dataset(TRAINING_DATA.value)
    output.mkdir(parents=True, exist_ok=True)
    for model in given:
        models.find(model.source)
    found = benchmark.run(
        given,
        tasks,
        output,
        base=BASE.value,
        max_queries=MAX_QUERIES.value,
        seed=SEED.value,
        training_data=training_data,
    )
    command = shlex.join(['python', '-m', 'uwe_jax.workbench', *sys.argv[1:]])
    content = {'format': results.FORMAT, 'command': command, **found}
    results.write_json(output / 'comparison.json', found['comparisons'])
    results.write_json(output / 'results.json', content)
    for name, text in (('results.md', markdown.render(content)), ('report.html', html.render(content))):
        with whole_file(output / name) as partial:
            partial.write_text(text, encoding='utf-8')
    print(markdown.summary(content))
    logger.info('wrote results.json, results.md and report.html to %s', output)


if __name__ == '__main__':
    app.run(main)
