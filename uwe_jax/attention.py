"""Draws how two texts meet: python -m uwe_jax.attention --model=DIR --query=TEXT --target=TEXT --output=FILE.png."""

import pathlib

from absl import app, flags

from uwe_jax import plots
from uwe_jax.command import exit_status, refuse_arguments
from uwe_jax.interaction import Score, has_attention
from uwe_jax.ranking import Ranker

MODEL = flags.DEFINE_string(
    'model', None, 'An export, or a plain MPNet model: a directory or a Hub name.', required=True
)
QUERY = flags.DEFINE_string('query', None, 'The text that ranks.', required=True)
TARGET = flags.DEFINE_string('target', None, 'The text that is ranked.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'The PNG file to write.', required=True)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    refuse_arguments(argv)
    return exit_status(draw)


def draw() -> None:
    """Draws A and C of one pair, and prints its score."""
    output = pathlib.Path(OUTPUT.value)
    plots.check_output(output)
    for flag in (QUERY, TARGET):
        if not flag.value.strip():
            raise ValueError(f'--{flag.name}: {flag.value!r}, expected a text')
    ranker = Ranker.from_pretrained(MODEL.value, check=check_has_attention)
    found = ranker.attention(QUERY.value, TARGET.value)
    plots.save(plots.attention_map(found, QUERY.value, TARGET.value, ranker.pair_score), output)
    print(f'{found.score:.3f}  {OUTPUT.value}')


def check_has_attention(score: Score) -> None:
    """Refuses a score that does not weigh tokens against each other.

    Raises:
      ValueError: as said.
    """
    if not has_attention(score):
        raise ValueError(
            f'score: kind {score.kind!r} with target {score.target!r} has no attention between tokens to draw, '
            "expected a model with kind 'soft' or 'maxsim' and target 'tokens'"
        )


if __name__ == '__main__':
    app.run(main)
