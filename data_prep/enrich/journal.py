"""A file of JSON lines of which none that was written is ever lost, and none is ever half there."""

import fcntl
import json
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

from absl import logging

from data_prep.errors import DataError

SETTINGS = 'settings'  # the kind of the first record


class Journal:
    """Records of one piece of work, kept on disk so that it can go on after any interruption.

    The first record holds the settings under which the others are valid. Every record has a `kind`. A record is on
    disk, fsync included, when `append` returns; threads may share a journal, processes may not.

    Args:
      path: the file; made if it is not there.
      settings: what the records depend on.

    Attributes:
      records: what the file held when it was opened, the settings left out.

    Raises:
      DataError: the file cannot be written, is held by another process, is damaged before its last line, or was begun
        under other settings; the message names the first that differs.
    """

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any]):
        self._path = path
        self._lock = threading.Lock()
        try:
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                _sync_directory(path.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise DataError(
                f'{path}: another process is at work on it; wait for it or choose another --output'
            ) from error
        try:
            records, self._size = _parse(path)
            if self._size < os.fstat(self._file).st_size:
                logging.warning('%s: the last line was cut short by a crash; it is dropped', path)
                os.ftruncate(self._file, self._size)
            self.records = _under(settings, records, path)
            if not records:
                self.append({'kind': SETTINGS, **settings})
        except BaseException:
            self.close()
            raise

    def append(self, *records: Mapping[str, Any]) -> None:
        """Writes records; they are durable when this returns.

        Raises:
          DataError: it cannot be written, for instance because the disk is full; the file is as before.
        """
        lines = ''.join(json.dumps(record, ensure_ascii=False) + '\n' for record in records).encode()
        with self._lock:
            try:
                written = 0
                while written < len(lines):
                    written += os.write(self._file, lines[written:])
                os.fsync(self._file)
            except OSError as error:
                os.ftruncate(self._file, self._size)  # half a line would spoil the next one
                raise self._unwritable(error) from error
            self._size += len(lines)

    def close(self) -> None:
        """Lets other processes open the journal."""
        os.close(self._file)

    def _unwritable(self, error: OSError) -> DataError:
        return DataError(f'{self._path}: cannot be written ({error.strerror}); what it holds is whole')


def read_journal(path: pathlib.Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of a journal that is not opened for writing; none where there is no file.

    Raises:
      DataError: as for `Journal`.
    """
    return _under(settings, _parse(path)[0], path) if path.exists() else []


def _parse(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines' records, and how many bytes those lines take."""
    records = []
    size = 0
    with open(path, 'rb') as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b'\n'):
                break
            try:
                record = json.loads(line)
                record['kind']
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f'{path}, line {number}: damaged, expected a JSON object with a kind; '
                    'restore the file or choose another --output'
                ) from error
            records.append(record)
            size += len(line)
    return records, size


def _under(settings: Mapping[str, Any], records: list[dict[str, Any]], path: pathlib.Path) -> list[dict[str, Any]]:
    """The records after the settings, which must be the same."""
    if not records:
        return []
    begun = records[0]
    for name, value in {'kind': SETTINGS, **settings}.items():
        if begun.get(name) != value:
            raise DataError(
                f'{path}: begun with {name} {begun.get(name)!r}, now {value!r}; '
                'use the same settings or choose another --output'
            )
    return records[1:]


def _sync_directory(directory: pathlib.Path) -> None:
    """Makes a new name in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
