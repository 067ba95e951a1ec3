"""Target spaces: files, embedded once for each model and then mapped from disk; or indexes in LanceDB."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from uwe_jax.interaction import Side
from uwe_jax.io import paths
from uwe_jax.io.buckets import local_copy
from uwe_jax.io.tables import read_texts
from uwe_jax.ranking import Hit, Ranker, TargetIndex
from uwe_jax.ranking.embedded import Embedded
from uwe_jax.ranking.lance import PREFIX, LanceIndex, lance_path

FORMS = f'NAME=FILE, NAME=FILE:COLUMN or NAME={PREFIX}PATH'


class Space(Protocol):
    """What the service ranks: a `TargetIndex` or a `LanceIndex`."""

    def __len__(self) -> int:
        """The number of targets."""
        ...

    def rank(self, queries: Sequence[str] | Embedded, k: int, shortlist: int | None) -> list[list[Hit]]:
        """The k best targets of each query, best first."""
        ...

    def warm_up(self) -> Iterator[None]:
        """Compiles what ranking without a shortlist needs; yields after each program."""
        ...


@dataclasses.dataclass(frozen=True)
class SpaceFile:
    """A file with the targets of a space.

    Attributes:
      name: in requests.
      path: a table, or one text per line.
      column: of the table.
      skills: where the skills are when this space is ranked; None if nothing says so.
    """

    name: str
    path: pathlib.Path
    column: str
    skills: Side | None

    def check(self) -> None:
        """Reads the file.

        Raises:
          ValueError: it has no texts, or cannot be read.
        """
        _ = self.texts

    def open(self, ranker: Ranker, cache: pathlib.Path, dtype: str) -> TargetIndex:
        """The space as a model ranks it: from the cache, or embedded and kept there.

        Raises:
          ValueError: the file has no texts or cannot be read, or what the cache has is damaged.
          OSError: the cache cannot be written.
        """
        if self.skills is not None:
            ranker = ranker.facing(self.skills)
        content = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:16]
        return ranker.kept_index(self.texts, cache / f'{ranker.fingerprint}-{content}-{dtype}', dtype)

    @functools.cached_property
    def texts(self) -> list[str]:
        """The targets.

        Raises:
          ValueError: there are none, or the file cannot be read.
        """
        texts = list(read_texts(self.path, self.column, '--space=NAME=FILE:COLUMN'))
        if not texts:
            raise ValueError(f'--space={self.name}={self.path}: contains no text')
        return texts


@dataclasses.dataclass(frozen=True)
class SpaceInLance:
    """An index in LanceDB.

    Attributes:
      name: in requests.
      path: of the index.
      skills: where the skills are when this space is ranked; None if nothing says so.
    """

    name: str
    path: str
    skills: Side | None

    def check(self) -> None:
        """Raises ValueError if there is no index, or DataError if LanceDB is not installed."""
        LanceIndex.check(self.path)

    def open(self, ranker: Ranker, cache: pathlib.Path, dtype: str) -> LanceIndex:
        """The space as a model ranks it; `cache` and `dtype` concern files only.

        Raises:
          ValueError: the index belongs to another model.
        """
        del cache, dtype
        return LanceIndex.open(self.path, ranker if self.skills is None else ranker.facing(self.skills))


def read_spaces(words: Sequence[str], skills: Sequence[str]) -> list[SpaceFile | SpaceInLance]:
    """The spaces that the options `--space` describe.

    Args:
      words: NAME=FILE, NAME=FILE:COLUMN or NAME=lance:PATH of each.
      skills: the names of those that hold skills. If there are some, the queries of the others are skills.

    Raises:
      ValueError: the words have another form, a name comes twice or is unknown, or a file does not exist.
      BucketError: a bucket cannot be read.
    """
    spaces: dict[str, SpaceFile | SpaceInLance] = {}
    for one in words:
        name, _, place = one.partition('=')
        if not re.fullmatch(r'\w[\w-]*', name, re.ASCII) or not place:
            raise ValueError(f'--space={one}: expected {FORMS}, NAME of letters, digits, _ and -')
        if name in spaces:
            raise ValueError(f'--space={one}: a second space of that name')
        side: Side | None = None if not skills else 'target' if name in skills else 'query'
        in_lance = lance_path(place)
        if in_lance is not None:
            spaces[name] = SpaceInLance(name, in_lance, side)
            continue
        spaces[name] = SpaceFile(name, *_file_and_column(one, place), side)
    for name in skills:
        if name not in spaces:
            raise ValueError(f'--skills={name}: no --space of that name; there is {", ".join(spaces)}')
    return list(spaces.values())


def _file_and_column(option: str, place: str) -> tuple[pathlib.Path, str]:
    """The file of a space, copied from its bucket if it is in one, and the column.

    Raises:
      ValueError: there is no file.
    """
    path, column = paths.parse(place), 'text'
    scheme = paths.BUCKET if paths.in_bucket(path) else ''
    if not paths.exists(path) and ':' in place.removeprefix(scheme):
        place, _, column = place.rpartition(':')
        path = paths.parse(place)
    path = local_copy(path) if scheme else pathlib.Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f'--space={option}: no file {path}')
    return path, column
