"""Measures models on tasks: python -m uwe_jax.workbench --model=NAME=DIR --tasks=house,tech --output=DIR."""

import dataclasses
import logging
import pathlib
import shlex
import sys
from typing import Literal

from etils import epath

from uwe_jax.data.graph import open_dataset
from uwe_jax.io import console
from uwe_jax.io.claims import claim
from uwe_jax.io.files import write_whole
from uwe_jax.workbench import benchmark, markdown, report, results
from uwe_jax.workbench.models import read_models
from uwe_jax.workbench.registry import load_tasks, read_places, task_names
from uwe_jax.workbench.training import read_training

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures models on tasks, and compares them query by query."""

    model: tuple[str, ...]
    """NAME=SOURCE for each model; NAME=SOURCE:mean scores by the cosine of mean-pooled vectors,
    NAME=SOURCE:attend=both,kind=maxsim by the source's score with these fields changed.
    Models with the same source share its vectors.
    The source is an export, a training workdir, or a plain MPNet model: a directory, gs://BUCKET/NAME or a Hub name.
    NAME=workrb:CLASS is a model of WorkRB, such as workrb:BM25Model."""
    tasks: str
    """Names of tasks, separated by commas; see uwe_jax/workbench/README.md."""
    output: pathlib.Path
    """The directory of the results. A result that is there already is not measured again."""
    data: tuple[str, ...] = ()
    """NAME=PATH, the location of one kind of data, or a folder with all kinds; see uwe_jax/workbench/README.md."""
    base: str | None = None
    """The model to compare the others with; by default the first."""
    max_queries: int | None = None
    """The most queries to measure of each task; by default all."""
    seed: int = 0
    """Draws queries and the resamples of the bootstrap."""
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    """The precision of the encoders' matrix products."""
    training_data: epath.Path | None = None
    """A dataset of `python -m data_prep build`: adds MAP by the number of training titles of a skill."""

    def check(self) -> None:
        """Raises ValueError if an option does not fit."""
        if not self.model:
            raise ValueError('--model: expected NAME=SOURCE at least once')
        if self.max_queries is not None and self.max_queries < 1:
            raise ValueError(f'--max_queries={self.max_queries}: expected a number above 0')
        if self.seed < 0:
            raise ValueError(f'--seed={self.seed}: expected 0 or more')


def measure(options: Options) -> None:
    """Measures, prints a table, and writes results.json, comparison.json, results.md and report.html.

    Raises:
      ValueError, OSError: an option, a model or a file does not fit, or the output cannot be written.
    """
    options.check()
    models = read_models(options.model, options.dtype)
    tasks = load_tasks(task_names(options.tasks), read_places(options.data))
    benchmark.check(models, tasks, options.base)
    training_data = None if options.training_data is None else open_dataset(options.training_data)
    options.output.mkdir(parents=True, exist_ok=True)
    with claim(options.output):
        for model in models:
            model.fetch()
        measured = benchmark.run(
            models,
            tasks,
            options.output,
            base=options.base,
            max_queries=options.max_queries,
            seed=options.seed,
            training_data=training_data,
        )
        command = shlex.join(['python', '-m', 'uwe_jax.workbench', *sys.argv[1:]])
        runs = [run for source in dict.fromkeys(model.source for model in models) if (run := read_training(source))]
        content = {'format': results.FORMAT, 'command': command, **measured, 'training': runs}
        results.write_json(options.output / 'comparison.json', content['comparisons'])
        results.write_json(options.output / 'results.json', content)
        write_whole(options.output / 'results.md', markdown.render(content))
        write_whole(options.output / 'report.html', report.render(content))
    print(markdown.summary(content))
    logger.info('wrote results.json, results.md and report.html to %s', options.output)


if __name__ == '__main__':
    sys.exit(console.command(Options, measure))
