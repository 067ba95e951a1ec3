"""What was fetched so far, in a file that only grows, so that a killed run asks for nothing again."""

import fcntl
import json
import os
import pathlib
import threading
from typing import Any

from data_prep.errors import DataError, writing

Entry = dict[str, Any]


class Journal:
    """A file of JSON lines: one for each page, sitemap and robots.txt that was asked for.

    A line is on the disk before `add` returns. One process at a time may have it open, with any number of threads.

    Args:
      path: the file; made if it is not there.
      settings: what the run was begun with, for the first line.

    Raises:
      DataError: it belongs to a run with other settings, another process has it open, it cannot be read, or a line
        before the last is broken. A last line that was cut short is dropped.
    """

    def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
        self._path = path
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str], tuple[int, int, bool]] = {}  # of a page or sitemap: place, bytes, heard
        self._robots: dict[str, tuple[float, str]] = {}
        # Unbuffered: what is not on the disk must not look written.
        self._file = open(path, 'a+b', buffering=0)  # noqa: SIM115 (closed by close)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise DataError(f'{path}: another process is at it; wait for its end or choose another --output') from error
        if not self._read(settings):
            self._append({'settings': settings})

    def _read(self, settings: dict[str, Any]) -> bool:
        """Takes in what is there, and cuts off a last line without its end; False if nothing is left."""
        end = 0
        with open(self._path, 'rb') as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b'\n'):
                    break
                try:
                    entry = json.loads(line)
                except ValueError as error:
                    raise DataError(
                        f'{self._path}, line {number}: not JSON ({error}); remove {self._path.parent}'
                    ) from error
                if number == 1 and entry.get('settings') != settings:
                    raise DataError(
                        f'{self._path}: begun with {_difference(entry.get("settings"), settings)}; '
                        f'give the same to go on, choose another --output, or remove {self._path.parent}'
                    )
                self._take_in(entry, end, len(line))
                end += len(line)
        self._file.truncate(end)
        return end > 0

    def _take_in(self, entry: Entry, place: int, length: int) -> None:
        if 'robots' in entry:
            self._robots[entry['robots']] = entry['asked'], entry['text']
        for kind in ('page', 'sitemap'):
            if kind in entry:
                self._lines[kind, entry[kind]] = place, length, entry['heard']

    def add(self, entry: Entry) -> None:
        """Keeps an entry with the keys `heard` and `page` or `sitemap`; the last of an address counts.

        Raises:
          DataError: the disk does not take it.
        """
        with self._lock:
            self._take_in(entry, *self._append(entry))

    def _append(self, entry: Entry) -> tuple[int, int]:
        place = os.fstat(self._file.fileno()).st_size
        line = (json.dumps(entry, ensure_ascii=False) + '\n').encode()
        left = memoryview(line)
        with writing(self._path, 'the same command goes on'):
            try:
                while left:
                    left = left[self._file.write(left) :]
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(place)  # half a line would spoil the next one
                raise
        return place, len(line)

    def heard(self, url: str) -> bool:
        """Whether a page was asked for and something was heard, so that it is not to be asked for again."""
        return self._lines.get(('page', url), (0, 0, False))[2]

    def get(self, kind: str, url: str) -> Entry | None:
        """What came of a `page` or a `sitemap`; None if it was not asked for."""
        if (kind, url) not in self._lines:
            return None
        place, length, _ = self._lines[kind, url]
        return json.loads(os.pread(self._file.fileno(), length, place))

    def robots(self, origin: str) -> tuple[float, str] | None:
        """When a site's robots.txt was asked for (s since 1970), and what it said."""
        return self._robots.get(origin)

    def keep_robots(self, origin: str, asked: float, text: str) -> None:
        """Keeps a site's robots.txt."""
        self.add({'robots': origin, 'asked': asked, 'text': text})

    def close(self) -> None:
        """Lets others have it."""
        self._file.close()


def _difference(old: Any, new: dict[str, Any]) -> str:
    old = old if isinstance(old, dict) else {}
    name = next((name for name in new if old.get(name) != new[name]), 'other settings')
    return f'--{name}={old.get(name)}, now {new.get(name)}'
