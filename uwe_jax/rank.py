"""Ranks targets for queries: python -m uwe_jax.rank --model=DIR --targets=FILE "query" ..."""

import pathlib
import sys

from absl import app, flags

from uwe_jax.hub import FetchError
from uwe_jax.ranking import Ranker

MODEL = flags.DEFINE_string('model', None, 'An export, or a plain MPNet model: a directory or a Hub name.')
TARGETS = flags.DEFINE_string('targets', None, 'The target space: a text file, one target a line.')
K = flags.DEFINE_integer('k', 5, 'How many of the best targets to print.', lower_bound=1)
POOLING = flags.DEFINE_enum('pooling', 'tokens', ['tokens', 'mean'], 'Late interaction, or mean-pooled cosines.')


def main(argv: list[str]) -> int:
    """Prints the best targets of every query."""
    queries = argv[1:]
    try:
        if not queries:
            raise ValueError('no query: give one or more after the flags')
        targets = read_lines(pathlib.Path(TARGETS.value))
        index = Ranker.from_pretrained(MODEL.value, POOLING.value).index(targets)
    except (ValueError, OSError, FetchError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for query, hits in zip(queries, index.rank(queries, K.value), strict=True):
        print(f'\n{query}')
        for hit in hits:
            print(f'  {hit.score:.3f}  {hit.text}')
    return 0


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
      ValueError: there is none, or the file is not UTF-8.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not UTF-8 ({error})') from error
    targets = [line for line in lines if line]
    if not targets:
        raise ValueError(f'{path}: no targets, expected one a line')
    return targets


if __name__ == '__main__':
    flags.mark_flags_as_required(['model', 'targets'])
    app.run(main)
