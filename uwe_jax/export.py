"""Exports a trained model: python -m uwe_jax.export --workdir=DIR --output=DIR."""

import dataclasses
import logging
import pathlib

from absl import app, flags

from uwe_jax.data.graph import MAX_TOKENS, read_manifest
from uwe_jax.io import console
from uwe_jax.models import download, pretrained
from uwe_jax.models.model_card import model_card
from uwe_jax.training.checkpoint import load_params
from uwe_jax.training.metrics import read_lines
from uwe_jax.training.workdir import read_config

logger = logging.getLogger(__name__)


WORKDIR = flags.DEFINE_string('workdir', None, 'What `python -m uwe_jax.main --workdir` was given.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'The directory to make, in Hugging Face format.', required=True)


def export(workdir: pathlib.Path, output: pathlib.Path) -> int:
    """Writes the newest checkpoint of a workdir as a Hugging Face directory.

    Args:
      workdir: of a training run.
      output: must not exist yet; appears when it is complete.

    Returns:
      The step of the checkpoint.

    Raises:
      ValueError, OSError: the workdir is none or has no checkpoint, its dataset is gone, or the output exists.
    """
    config = read_config(workdir)
    if output.exists():
        raise ValueError(f'{output}: already there; choose another --output or remove it')
    base = download.fetch(config.init)
    if pathlib.Path(config.init).is_dir():  # a path of this machine tells others nothing
        config = dataclasses.replace(config, init=base.name)
    manifest = read_manifest(pathlib.Path(str(config.data.dir)))
    params, step = load_params(workdir)
    settings = {
        'format': 1,
        'score': dataclasses.asdict(config.score),
        'max_tokens': MAX_TOKENS,
        'base': config.init,
        'steps': step,
        'data': manifest['fingerprint'],
    }
    card = model_card(dataclasses.asdict(config), manifest, step, read_lines(workdir / 'evaluation.jsonl'))
    pretrained.save_pretrained(output, base=base, params=params, settings=settings, card=card)
    return step


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    del argv
    return console.run(export_and_say)


def export_and_say() -> None:
    """Exports what the flags say."""
    step = export(pathlib.Path(WORKDIR.value), pathlib.Path(OUTPUT.value))
    logger.info('exported the model after step %d to %s', step, OUTPUT.value)


if __name__ == '__main__':
    app.run(main)
