"""Ranks targets for queries: python -m uwe_jax.rank --model=DIR --targets=FILE "query" ..."""

import dataclasses
import logging
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

import tyro
from etils import epath

from uwe_jax.interaction import check_says_who_attends
from uwe_jax.io import console
from uwe_jax.io.buckets import local_copy
from uwe_jax.io.files import check_absent, check_writable, sha256
from uwe_jax.io.paths import check_local
from uwe_jax.io.tables import read_texts
from uwe_jax.ranking import Ranker, TargetIndex
from uwe_jax.ranking.bulk import rank_into
from uwe_jax.ranking.lance import PREFIX, LanceIndex, lance_path

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints the best targets of each query, or writes those of many queries into a file."""

    model: str
    """An export, a training workdir, or a plain MPNet model: a directory, gs://BUCKET/NAME or a Hub name."""
    targets: epath.Path | None = None
    """The target space: CSV, TSV, JSON, Parquet, or one text per line."""
    queries: tyro.conf.Positional[tuple[str, ...]] = ()
    """The queries, after the flags."""
    column: str = 'text'
    """The column with the targets, if they are in a table: CSV, TSV, JSON or Parquet."""
    index: str | None = None
    """A directory that keeps the embedded targets for the next time; or, in place of --targets, lance:PATH: an index in
    LanceDB, which uwe_jax.update_index makes."""
    input: epath.Path | None = None
    """A file of queries: CSV, TSV, JSON, Parquet, or one text per line."""
    input_column: str = 'text'
    """The column with the queries, if they are in a table: CSV, TSV, JSON or Parquet."""
    output: pathlib.Path | None = None
    """With --input: the JSONL file to write. After an interruption, the same command continues it."""
    k: int = 5
    """How many of the best targets of each query."""
    pooling: Literal['tokens', 'mean'] = 'tokens'
    """Late interaction, or the cosine of mean-pooled vectors."""
    attend: Literal['target', 'query', 'both'] | None = None
    """Whose tokens are attended to: the targets', the query's, or both in turn; by default as the model was trained.
    A model of score.attend=from_skill needs it: query if the targets are skills, target if the queries are."""

    @property
    def in_lance(self) -> str | None:
        """The path of an index in LanceDB."""
        return None if self.index is None else lance_path(self.index)

    @property
    def kept(self) -> pathlib.Path | None:
        """The directory of any other index."""
        return None if self.index is None or self.in_lance is not None else pathlib.Path(self.index)

    def check(self) -> None:
        """Raises ValueError if options do not fit, or do not go together."""
        if bool(self.queries) == (self.input is not None):
            raise ValueError('expected either queries after the flags or --input')
        if (self.input is None) != (self.output is None):
            raise ValueError('--input and --output: expected both or neither')
        if (self.targets is None) != (self.in_lance is not None):
            raise ValueError(f'expected either --targets or --index={PREFIX}PATH')
        if self.kept is not None:
            check_local(self.kept)
        if self.k < 1:
            raise ValueError(f'--k: {self.k}, expected a whole number above 0')
        for number, query in enumerate(self.queries, start=1):
            if not query.strip():
                raise ValueError(f'query {number}: {query!r}, expected a text that is not blank')


def rank(options: Options) -> None:
    """Prints the best targets of every query, or writes those of many.

    Raises:
      ValueError: the options do not fit, a file has no texts or another format, the output exists, or --index belongs
        to something else.
      OSError: a file cannot be read or written.
    """
    options.check()
    if options.output is not None:
        check_absent(options.output)
    for path in (options.output, options.kept):
        if path is not None and not path.exists():
            check_writable(path)
    if options.in_lance is not None:
        LanceIndex.check(options.in_lance)
    targets = read_targets(options)
    file, total = None, 0
    if options.input is not None:
        file = local_copy(options.input)
        total = sum(1 for _ in read_texts(file, options.input_column, '--input_column'))
        if not total:
            raise ValueError(f'{options.input}: contains no text')
    ranker = Ranker.from_pretrained(options.model, options.pooling, attend=options.attend, check=check_says_who_attends)
    index = open_index(options, ranker, targets)
    if file is None or options.output is None:
        show(index, options.queries, options.k)
        return
    queries = read_texts(file, options.input_column, '--input_column')
    settings = [sha256(file), options.input_column, index.fingerprint]
    rank_into(options.output, index, queries, options.k, settings, total)
    logger.info('ranked %d targets for %d queries: %s', len(index), total, options.output)


def read_targets(options: Options) -> list[str]:
    """The target space; nothing if it is in LanceDB.

    Raises:
      ValueError: the file has no texts, or cannot be read.
    """
    if options.targets is None:
        return []
    targets = list(read_texts(local_copy(options.targets), options.column))
    if not targets:
        raise ValueError(f'{options.targets}: contains no text')
    return targets


def open_index(options: Options, ranker: Ranker, targets: list[str]) -> TargetIndex | LanceIndex:
    """Opens the index that --index names if it exists; else makes it, and saves it if --index is given.

    Raises:
      ValueError: --index contains other targets, or belongs to another model; or an index in LanceDB does not exist.
      DataError: LanceDB is not installed.
    """
    if options.in_lance is not None:
        return LanceIndex.open(options.in_lance, ranker, follow=False)
    if options.kept is None:
        return ranker.index(targets)
    index = ranker.kept_index(targets, options.kept)
    if list(index.texts) != targets:
        raise ValueError(f'{options.kept}: holds other targets than {options.targets}; remove it to make it again')
    return index


def show(index: TargetIndex | LanceIndex, queries: Sequence[str], k: int) -> None:
    """Prints a table for each query."""
    for query, hits in zip(queries, index.rank(queries, k), strict=True):
        print(f'\n{query}')
        for hit in hits:
            print(f'  {hit.score:.3f}  {hit.text}')


if __name__ == '__main__':
    sys.exit(console.command(Options, rank))
