"""Ranks targets for queries: python -m uwe_jax.rank --model=DIR --targets=FILE "query" ..."""

import logging
import pathlib
from collections.abc import Iterator

from absl import app, flags

from uwe_jax.io import console
from uwe_jax.io.files import check_writable, sha256
from uwe_jax.io.tables import read_texts
from uwe_jax.ranking import Ranker, TargetIndex
from uwe_jax.ranking.bulk import rank_into

logger = logging.getLogger(__name__)


MODEL = flags.DEFINE_string(
    'model', None, 'An export, a training workdir, or a plain MPNet model: a directory or a Hub name.', required=True
)
TARGETS = flags.DEFINE_string(
    'targets', None, 'The target space: .csv, .jsonl, or text with one target a line.', required=True
)
COLUMN = flags.DEFINE_string('column', 'text', 'The column of a CSV file, or field of a JSONL file, with the targets.')
INDEX = flags.DEFINE_string('index', None, 'A directory that keeps the embedded targets for the next time.')
INPUT = flags.DEFINE_string('input', None, 'Many queries: .csv, .jsonl, or text with one query a line.')
INPUT_COLUMN = flags.DEFINE_string(
    'input_column', 'text', 'The column of a CSV file, or field of a JSONL file, with the queries.'
)
OUTPUT = flags.DEFINE_string('output', None, 'With --input: the JSONL file to write. The same command goes on with it.')
K = flags.DEFINE_integer('k', 5, 'How many of the best targets of each query.', lower_bound=1)
POOLING = flags.DEFINE_enum('pooling', 'tokens', ['tokens', 'mean'], 'Late interaction, or mean-pooled cosines.')


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit status."""
    return console.run(lambda: rank(argv[1:]))


def rank(queries: list[str]) -> None:
    """Prints the best targets of every query, or writes those of many."""
    check_flags(queries)
    targets = list(read_texts(pathlib.Path(TARGETS.value), COLUMN.value))
    many = 0 if INPUT.value is None else sum(1 for _ in _queries(pathlib.Path(INPUT.value)))
    for path, texts in ((TARGETS.value, len(targets)), (INPUT.value, many)):
        if path is not None and not texts:
            raise ValueError(f'{path}: no text in it')
    index = open_index(Ranker.from_pretrained(MODEL.value, POOLING.value), targets)
    if INPUT.value is not None:
        write(index, many)
    else:
        show(index, queries)


def check_flags(queries: list[str]) -> None:
    """Refuses what does not go together, and what could not be written.

    Raises:
      ValueError, OSError: as said.
    """
    if bool(queries) == (INPUT.value is not None):
        raise ValueError('expected either queries after the flags or --input')
    if (INPUT.value is None) != (OUTPUT.value is None):
        raise ValueError('--input and --output: expected both or none')
    if OUTPUT.value is not None and pathlib.Path(OUTPUT.value).exists():
        raise ValueError(f'{OUTPUT.value}: already there; choose another --output or remove it')
    for path in (OUTPUT.value, INDEX.value):
        if path is not None and not pathlib.Path(path).exists():
            check_writable(pathlib.Path(path))
    for number, query in enumerate(queries, start=1):
        if not query.strip():
            raise ValueError(f'query {number}: {query!r}, expected a text that is not blank')


def _queries(path: pathlib.Path) -> Iterator[str]:
    return read_texts(path, INPUT_COLUMN.value, '--input_column')


def open_index(ranker: Ranker, targets: list[str]) -> TargetIndex:
    """The index of the targets, from --index if it is there, else made, and kept there if it is given.

    Raises:
      ValueError: --index is one of other targets or of another model.
    """
    if INDEX.value is None or not pathlib.Path(INDEX.value).exists():
        index = ranker.index(targets)
        if INDEX.value is not None:
            try:
                index.save(INDEX.value)
            except OSError:
                if not pathlib.Path(INDEX.value).exists():  # else another process kept its own meanwhile
                    raise
            logger.info('kept the embedded targets in %s', INDEX.value)
        return index
    index = TargetIndex.load(INDEX.value, ranker)
    if list(index.texts) != targets:
        raise ValueError(f'{INDEX.value}: an index of other targets than {TARGETS.value}; remove it to make it again')
    return index


def show(index: TargetIndex, queries: list[str]) -> None:
    """Prints a table for each query."""
    for query, hits in zip(queries, index.rank(queries, K.value), strict=True):
        print(f'\n{query}')
        for hit in hits:
            print(f'  {hit.score:.3f}  {hit.text}')


def write(index: TargetIndex, total: int) -> None:
    """Writes what --output asks for."""
    source, output = pathlib.Path(INPUT.value or ''), pathlib.Path(OUTPUT.value or '')
    settings = [sha256(source), INPUT_COLUMN.value, index.fingerprint]
    rank_into(output, index, _queries(source), K.value, settings, total)
    logger.info('ranked %d targets for %d queries: %s', len(index.texts), total, output)


if __name__ == '__main__':
    app.run(main)
