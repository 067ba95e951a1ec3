"""What was fetched so far, in a journal, so that a killed run asks for nothing again."""

import pathlib
from collections.abc import Mapping
from typing import Any

from data_prep.journal import Journal, Place

Entry = dict[str, Any]

PAGE, SITEMAP, ROBOTS = 'page', 'sitemap', 'robots'  # kinds of records, and the fields with the address


class Fetched:
    """A record for each page, sitemap and robots.txt that was asked for; the last of an address counts.

    It is on the disk before `add` returns. One process at a time may have it open, with any number of threads.

    Args:
      path: the journal; made if it is not there.
      settings: what the run was begun with.

    Raises:
      DataError: as for `Journal`.
    """

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any]):
        self._records: dict[tuple[str, str], tuple[Place, bool]] = {}  # of a page or sitemap: where, and if heard
        self._robots: dict[str, tuple[float, str]] = {}
        self._journal = Journal(path, settings, self._take_in)

    def _take_in(self, record: Mapping[str, Any], place: Place) -> None:
        kind = record['kind']
        if kind == ROBOTS:
            self._robots[record[ROBOTS]] = record['asked'], record['text']
        else:
            self._records[kind, record[kind]] = place, record['heard']

    def add(self, kind: str, entry: Entry) -> None:
        """Keeps what came of a `page` or a `sitemap`, and of which; `heard` says whether anything came.

        Raises:
          DataError: the disk does not take it.
        """
        self._journal.append({'kind': kind, **entry})

    def heard(self, page: str) -> bool:
        """Whether a page was asked for and something was heard, so that it is not to be asked for again."""
        return (PAGE, page) in self._records and self._records[PAGE, page][1]

    def get(self, kind: str, address: str) -> Entry | None:
        """What came of a `page` or a `sitemap`; None if it was not asked for."""
        if (kind, address) not in self._records:
            return None
        return self._journal.read(self._records[kind, address][0])

    def robots(self, origin: str) -> tuple[float, str] | None:
        """When a site's robots.txt was asked for (s since 1970), and what it said."""
        return self._robots.get(origin)

    def keep_robots(self, origin: str, asked: float, text: str) -> None:
        """Keeps a site's robots.txt."""
        self._journal.append({'kind': ROBOTS, ROBOTS: origin, 'asked': asked, 'text': text})

    def close(self) -> None:
        """Lets others have it."""
        self._journal.close()
