"""Exports a trained model: python -m uwe_jax.export --workdir=DIR --output=DIR."""

import dataclasses
import logging
import pathlib
import sys
from typing import Literal

from etils import epath

from uwe_jax.io import console, paths
from uwe_jax.io.files import check_absent

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the newest checkpoint of a training run as a Hugging Face directory."""

    workdir: epath.Path
    """The --workdir of `python -m uwe_jax.main`."""
    output: epath.Path
    """The directory to make. It appears when it is complete."""
    results: pathlib.Path | None = None
    """results.json of python -m uwe_jax.workbench, with the workdir among its models: for the model card."""
    attend: Literal['target', 'query', 'both'] | None = None
    """Whose tokens are attended to in the export's score; by default as the model was trained."""


def export(options: Options) -> None:
    """Writes the export.

    Raises:
      ValueError, OSError: the workdir is not that of a run or has no checkpoint, its base model is gone, the results
        are not its own, or the output exists or cannot be written.
    """
    workdir, output = options.workdir, options.output
    # Here, so that --help does not wait for JAX.
    from uwe_jax.data.graph import MAX_TOKENS
    from uwe_jax.models import download, pretrained
    from uwe_jax.models.model_card import model_card
    from uwe_jax.training.checkpoint import load_params
    from uwe_jax.training.metrics import read_lines
    from uwe_jax.training.workdir import read_config, read_data
    from uwe_jax.workbench import markdown
    from uwe_jax.workbench.results import read_results

    config = read_config(workdir)
    check_absent(output, last=download.CONFIG)
    base = download.fetch(config.init)
    if paths.in_bucket(config.init) or pathlib.Path(config.init).is_dir():  # a path tells others nothing
        config = dataclasses.replace(config, init=base.name)
    trained_with = config.score.attend
    if options.attend is not None:
        config = dataclasses.replace(config, score=dataclasses.replace(config.score, attend=options.attend))
    data = read_data(workdir, config)
    measured, of_step = '', None
    if options.results is not None:
        results, of_step = read_results(options.results, workdir)
        measured = markdown.in_a_card(results)
    params, step = load_params(workdir)
    if of_step not in (None, step):
        raise ValueError(
            f'{options.results}: of {workdir} after step {of_step}, expected step {step}; measure it again'
        )
    settings = {
        'format': 1,
        'score': dataclasses.asdict(config.score),
        'max_tokens': MAX_TOKENS,
        'base': config.init,
        'steps': step,
        'data': data['fingerprint'],
    }
    evaluations = [line for line in read_lines(workdir / 'evaluation.jsonl') if line['step'] <= step]
    card = model_card(dataclasses.asdict(config), data, step, evaluations, measured, trained_with)
    pretrained.save_pretrained(output, base=base, params=params, settings=settings, card=card)
    logger.info('exported the model after step %d to %s', step, output)


if __name__ == '__main__':
    sys.exit(console.command(Options, export))
