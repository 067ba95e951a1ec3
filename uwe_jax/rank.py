"""Ranks targets for queries: python -m uwe_jax.rank --model=DIR --targets=FILE "query" ..."""

import csv
import json
import pathlib
import sys

from absl import app, flags

from uwe_jax.hub import FetchError
from uwe_jax.logs import own_lines_only
from uwe_jax.ranking import Ranker

MODEL = flags.DEFINE_string(
    'model', None, 'An export, or a plain MPNet model: a directory or a Hub name.', required=True
)
TARGETS = flags.DEFINE_string(
    'targets', None, 'The target space: .csv, .jsonl, or text with one target a line.', required=True
)
COLUMN = flags.DEFINE_string('column', 'text', 'The column of a CSV file, or field of a JSONL file, with the targets.')
K = flags.DEFINE_integer('k', 5, 'How many of the best targets to print.', lower_bound=1)
POOLING = flags.DEFINE_enum('pooling', 'tokens', ['tokens', 'mean'], 'Late interaction, or mean-pooled cosines.')


def main(argv: list[str]) -> int:
    """Prints the best targets of every query."""
    own_lines_only()
    queries = argv[1:]
    try:
        if not queries:
            raise ValueError('no query: give one or more after the flags')
        targets = read_texts(pathlib.Path(TARGETS.value), COLUMN.value)
        index = Ranker.from_pretrained(MODEL.value, POOLING.value).index(targets)
    except (ValueError, OSError, FetchError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    for query, hits in zip(queries, index.rank(queries, K.value), strict=True):
        print(f'\n{query}')
        for hit in hits:
            print(f'  {hit.score:.3f}  {hit.text}')
    return 0


def read_texts(path: pathlib.Path, column: str) -> list[str]:
    """The texts of a file that are not blank.

    Args:
      path: ends in .csv, in .jsonl, or holds one text a line.
      column: of a CSV file, or field of each JSONL line.

    Raises:
      ValueError: there is no text, a row lacks the column, or the file is not UTF-8.
    """
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            if path.suffix == '.csv':
                texts = [row.get(column) for row in csv.DictReader(file)]
            elif path.suffix == '.jsonl':
                texts = [json.loads(line).get(column) for line in file if line.strip()]
            else:
                texts = list(file)
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not UTF-8 ({error})') from error
    found = []
    for row, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise ValueError(f'{path}, row {row}: no text in {column!r}; name the right one with --column')
        if text.strip():
            found.append(text.strip())
    if not found:
        raise ValueError(f'{path}: no text in it')
    return found


if __name__ == '__main__':
    app.run(main)
