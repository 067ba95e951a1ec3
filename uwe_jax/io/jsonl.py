"""JSONL files that only grow, so that interrupted work can resume: no written line is lost or incomplete."""

import io
import json
import logging
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.paths import Path

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """The position of a line in its file, in bytes."""

    start: int
    length: int


class ResumableJsonl:
    """Appends values to a JSONL file, one per line; they are on the disk, fsync included, when `append` returns.

    A last line that a crash cut short is dropped when the file is opened. Threads may share one; `io.claims` keeps
    other processes away.

    Args:
      path: the file; made if it does not exist.

    Attributes:
      size: bytes of its lines.

    Raises:
      DataError: the file cannot be written.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._lock = threading.Lock()
        with self._writing():
            is_new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if is_new:
                _sync_directory(path.parent)
            with open(path, 'rb') as file:
                self.size = sum(len(line) for line in file if line.endswith(b'\n'))
            if self.size < os.fstat(self._file).st_size:
                logger.warning('%s: the last line was cut short by a crash; it is dropped', path)
                os.ftruncate(self._file, self.size)

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        os.close(self._file)

    def append(self, *values: Any) -> list[Place]:
        """Writes values, all or none; returns their places.

        Raises:
          DataError: they cannot be written, for example because the disk is full.
        """
        lines = [json.dumps(value, ensure_ascii=False).encode() + b'\n' for value in values]
        left = memoryview(b''.join(lines))
        places = []
        with self._lock, self._writing():
            try:
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self.size)  # half a line would spoil the next one
                raise
            for line in lines:
                places.append(Place(self.size, len(line)))
                self.size += len(line)
        return places

    def read(self, place: Place) -> Any:
        """The value at a place."""
        return json.loads(os.pread(self._file, place.length, place.start))

    def _writing(self):
        return writing(self._path, 'the lines in it are complete, and the same command continues')


def read_whole_lines(path: Path, remedy: str = 'choose another --output') -> Iterator[tuple[Any, Place]]:
    """Yields the value and the place of each line, but for a last one that was cut short.

    Args:
      path: the file.
      remedy: what to do about a damaged line if the file cannot be restored.

    Raises:
      DataError: a line is not JSON; names it.
    """
    start = 0
    with path.open('rb') as file:
        # From a bucket, each line would be a request.
        lines = file if isinstance(path, pathlib.Path) else io.BytesIO(file.read())
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b'\n'):
                return
            try:
                value = json.loads(line)
            except ValueError as error:
                message = f'{path}, line {number}: damaged, expected JSON; restore the file or {remedy}'
                raise DataError(message) from error
            yield value, Place(start, len(line))
            start += len(line)


def _sync_directory(directory: pathlib.Path) -> None:
    """Makes a new name in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
