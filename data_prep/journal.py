"""A file of JSON lines that only grows, of which none that was written is ever lost, and none is ever half there."""

import fcntl
import json
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from uwe_jax.io.errors import DataError, writing

logger = logging.getLogger(__name__)


Record = Mapping[str, Any]
SETTINGS = 'settings'  # the kind of the first record


class Place(NamedTuple):
    """Where a record stands in its file, in bytes."""

    start: int
    length: int


class Journal:
    """Records of one piece of work, kept on disk so that it can go on after any interruption.

    The first record holds the settings under which the others are valid. A record is on the disk, fsync included, when
    `append` returns; threads may share a journal, processes may not.

    Args:
      path: the file; made if it is not there.
      settings: what the records depend on, as JSON has it.
      take_in: gets every record and its place: those that the file holds, and then those that are appended.

    Raises:
      DataError: the file cannot be written, is held by another process, is damaged before its last line, or was begun
        under other settings; the message names the first that differs.
    """

    def __init__(self, path: pathlib.Path, settings: Record, take_in: Callable[[Record, Place], None]):
        self._path = path
        self._take_in = take_in
        self._lock = threading.Lock()
        self._size = 0
        with self._writing():
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                _sync_directory(path.parent)
        try:
            self._open(settings)
        except BaseException:
            self.close()
            raise

    def _open(self, settings: Record) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f'{self._path}: another process is at work on it; wait for its end or choose another --output'
            ) from error
        for record, place in _lines(self._path, settings):
            self._size = place.start + place.length
            if place.start:
                self._take_in(record, place)
        if self._size < os.fstat(self._file).st_size:
            logger.warning('%s: the last line was cut short by a crash; it is dropped', self._path)
            os.ftruncate(self._file, self._size)
        if not self._size:
            self._write({'kind': SETTINGS, **settings})

    def append(self, *records: Record) -> None:
        """Writes records; they are durable when this returns.

        Raises:
          DataError: they cannot be written, for instance because the disk is full; the file is as before.
        """
        with self._lock:
            for record, place in zip(records, self._write(*records), strict=True):
                self._take_in(record, place)

    def read(self, place: Place) -> dict[str, Any]:
        """The record that stands there."""
        return json.loads(os.pread(self._file, place.length, place.start))

    def close(self) -> None:
        """Lets other processes open the journal."""
        os.close(self._file)

    def _write(self, *records: Record) -> list[Place]:
        lines = [json.dumps(record, ensure_ascii=False).encode() + b'\n' for record in records]
        left = memoryview(b''.join(lines))
        with self._writing():
            try:
                while left:
                    left = left[os.write(self._file, left) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._size)  # half a line would spoil the next one
                raise
        places = []
        for line in lines:
            places.append(Place(self._size, len(line)))
            self._size += len(line)
        return places

    def _writing(self):
        return writing(self._path, 'what it holds is whole, and the same command goes on')


def read_records(path: pathlib.Path, settings: Record) -> list[Record]:
    """The records of a journal that is not opened for writing; none where there is no file.

    Raises:
      DataError: as for `Journal`.
    """
    return [record for record, place in _lines(path, settings) if place.start] if path.exists() else []


def _lines(path: pathlib.Path, settings: Record) -> Iterator[tuple[Record, Place]]:
    """Every record on a whole line, the settings, which must be these, among them; and its place."""
    start = 0
    with open(path, 'rb') as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b'\n'):
                return
            try:
                record = json.loads(line)
                record['kind']
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f'{path}, line {number}: damaged, expected a JSON object with a kind; '
                    'restore the file or choose another --output'
                ) from error
            if not start:
                _compare(path, record, settings)
            yield record, Place(start, len(line))
            start += len(line)


def _compare(path: pathlib.Path, begun: Record, settings: Record) -> None:
    for name, value in {'kind': SETTINGS, **settings}.items():
        if begun.get(name) != value:
            raise DataError(
                f'{path}: begun with {name} {begun.get(name)!r}, now {value!r}; '
                'give the same to go on, or choose another --output'
            )


def _sync_directory(directory: pathlib.Path) -> None:
    """Makes a new name in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
