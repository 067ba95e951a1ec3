"""Draws the attention between two texts.

python -m uwe_jax.attention --model=DIR --query=TEXT --target=TEXT --output=FILE.png
"""

import dataclasses
import pathlib
import sys
from typing import Literal

from uwe_jax import plots
from uwe_jax.interaction import Score, check_says_who_attends, has_attention
from uwe_jax.io import console
from uwe_jax.ranking import Ranker


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws which tokens of two texts attend to which, and their cosines."""

    model: str
    """An export, a training workdir, or a plain MPNet model: a directory, gs://BUCKET/NAME or a Hub name."""
    query: str
    """The text for which others are ranked."""
    target: str
    """The text that is ranked."""
    output: pathlib.Path
    """The PNG file to write."""
    attend: Literal['target', 'query', 'both'] | None = None
    """Whose tokens are attended to: the target's, the query's, or both in turn; by default as the model was trained.
    A model of score.attend=from_skill needs it: query if the target is a skill, target if the query is."""

    def check(self) -> None:
        """Raises ValueError if an option does not fit."""
        for name in ('query', 'target'):
            if not getattr(self, name).strip():
                raise ValueError(f'--{name}: {getattr(self, name)!r}, expected a text that is not blank')


def draw(options: Options) -> None:
    """Draws A and C of one pair, and prints its score.

    Raises:
      ValueError, OSError: a text is blank, the model has no attention between tokens, or the output cannot be written.
    """
    options.check()
    plots.check_output(options.output)
    ranker = Ranker.from_pretrained(options.model, attend=options.attend, check=check_has_attention)
    attention = ranker.attention(options.query, options.target)
    plots.save(plots.attention_map(attention, options.query, options.target, ranker.pair_score), options.output)
    print(f'{attention.score:.3f}  {options.output}')


def check_has_attention(score: Score) -> None:
    """Refuses a score that does not weigh the tokens of this pair against each other.

    Raises:
      ValueError: the score has no attention between tokens, or nothing says which side attends.
    """
    check_says_who_attends(score)
    if not has_attention(score):
        raise ValueError(
            f'score: kind {score.kind!r} with target {score.target!r} has no attention between tokens to draw, '
            "expected a model with kind 'soft' or 'maxsim' and target 'tokens'"
        )


if __name__ == '__main__':
    sys.exit(console.command(Options, draw))
