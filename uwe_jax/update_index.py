"""Adds, replaces and deletes targets of an index in LanceDB: python -m uwe_jax.update_index --index=lance:PATH ..."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
from typing import Literal

from etils import epath

from uwe_jax.io import console
from uwe_jax.io.buckets import local_copy
from uwe_jax.io.claims import claim
from uwe_jax.io.paths import BUCKET
from uwe_jax.io.tables import SUFFIXES, Row, read_rows, read_texts, suffix_of
from uwe_jax.ranking import Ranker
from uwe_jax.ranking.lance import PREFIX, LanceIndex, lance_path

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """Adds, replaces and deletes targets of an index in LanceDB; makes it if it is not there.

    Only new and changed texts are embedded. After an interruption, the same command continues.
    """

    index: str
    """lance:DIRECTORY, or lance:gs://BUCKET/NAME."""
    model: str
    """An export, a training workdir, or a plain MPNet model: a directory, gs://BUCKET/NAME or a Hub name."""
    targets: epath.Path | None = None
    """The targets to add: CSV, TSV, JSON, Parquet, or one text per line."""
    column: str = 'text'
    """The column with their texts, if they are in a table."""
    id_column: str | None = None
    """The column with their ids. A target whose id is there with another text is replaced. By default, a text is its
    own id."""
    delete: epath.Path | None = None
    """A file with the ids of targets to delete, one per line, or a table that has them in --id_column."""
    pooling: Literal['tokens', 'mean'] = 'tokens'
    """Late interaction, or the cosine of mean-pooled vectors."""
    dtype: Literal['float32', 'bfloat16', 'int8'] | None = None
    """Of the stored token vectors; by default int8, or that of the index that is there."""
    encoder_dtype: Literal['float32', 'bfloat16'] = 'float32'
    """Of the encoder's matrix products."""

    def check(self) -> None:
        """Raises ValueError if options do not fit, or do not go together."""
        if lance_path(self.index) is None:
            raise ValueError(f'--index={self.index}: expected {PREFIX}PATH')
        if self.targets is None and self.delete is None:
            raise ValueError('expected --targets, --delete or both')


def update(options: Options) -> None:
    """Deletes, then adds, then brings the approximate index up to date.

    Raises:
      ValueError: the options do not fit, a file has no texts or another format, no source has the model, the index is
        another model's or cannot be written, or another process is at work on it.
    """
    options.check()
    path = lance_path(options.index) or ''
    targets, ids = read_targets(options)
    gone = [] if options.delete is None else read_ids(options.delete, options)
    if not targets:
        LanceIndex.check(path)
    ranker = Ranker.from_pretrained(options.model, options.pooling, options.encoder_dtype)
    index = LanceIndex.create(path, ranker, options.dtype)
    with contextlib.nullcontext() if path.startswith(BUCKET) else claim(pathlib.Path(path).expanduser(), '--index'):
        if gone:
            logger.info('deleted %d targets', index.delete(gone))
        if targets:
            logger.info('embedded %d targets, of %d in %s', index.put(targets, ids), len(targets), options.targets)
        index.optimize()
    logger.info('%s has %d targets', options.index, len(index))


def read_targets(options: Options) -> tuple[list[str], list[str]]:
    """The texts and the ids of the targets to add. A target that stands in the file several times is added once.

    Raises:
      ValueError: the file has no texts, a row has no id, or two texts have the same.
    """
    if options.targets is None:
        return [], []
    path = local_copy(options.targets)
    pairs: dict[str, str] = {}
    if options.id_column is None:
        pairs = {text: text for text in read_texts(path, options.column)}
    else:
        for row in read_rows(path):
            name, text = read_id(row, options.id_column), row.required_text(options.column)
            if pairs.setdefault(name, text) != text:
                raise ValueError(f'{row.place}: {text!r} has the id {name!r}, as {pairs[name]!r} before')
    if not pairs:
        raise ValueError(f'{options.targets}: contains no text')
    return list(pairs.values()), list(pairs)


def read_ids(path: epath.Path, options: Options) -> list[str]:
    """The ids of targets to delete.

    Raises:
      ValueError: the file cannot be read, or lacks the column.
    """
    copy = local_copy(path)
    if options.id_column is None or suffix_of(copy) not in SUFFIXES:
        return list(read_texts(copy, options.column))
    return [read_id(row, options.id_column) for row in read_rows(copy)]


def read_id(row: Row, column: str) -> str:
    """The id in a row: a text, or a whole number.

    Raises:
      DataError: there is none.
    """
    value = row.cell(column)
    return str(value) if type(value) is int else row.required_text(column)


if __name__ == '__main__':
    sys.exit(console.command(Options, update))
