"""The journal of a crawl: what was fetched so far, so that a resumed run requests nothing twice."""

import pathlib
from collections.abc import Mapping
from typing import Any

from data_prep.journal import open_journal, read_records
from uwe_jax.io.jsonl import Place

Entry = Mapping[str, Any]

PAGE, SITEMAP, ROBOTS = 'page', 'sitemap', 'robots'  # kinds of entries; the field of this name holds the address


class CrawlJournal:
    """An entry for each page, sitemap and robots.txt that was requested; the last one for an address counts.

    An entry is on the disk before `add` returns. Threads may share a journal, processes may not.

    Args:
      path: the file; made if it does not exist.
      settings: what the crawl was begun with.

    Raises:
      DataError: the file cannot be written, is damaged, or was begun with other settings.
    """

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any]):
        self._places: dict[tuple[str, str], Place] = {}
        self._answered: set[str] = set()
        for entry, place in read_records(path, settings):
            self._index(entry, place)
        self._file = open_journal(path, settings)

    def __enter__(self):
        return self

    def __exit__(self, *error: object):
        self._file.__exit__(*error)

    def _index(self, entry: Entry, place: Place) -> None:
        kind = entry['kind']
        self._places[kind, entry[kind]] = place
        if kind == PAGE and entry['heard']:
            self._answered.add(entry[PAGE])

    def add(self, kind: str, entry: Entry) -> None:
        """Keeps an entry. For a page or sitemap, `heard` says whether it must not be requested again.

        Raises:
          DataError: it cannot be written.
        """
        entry = {'kind': kind, **entry}
        [place] = self._file.append(entry)
        self._index(entry, place)

    def get(self, kind: str, address: str) -> Entry | None:
        """The entry for an address; None if it was not requested."""
        place = self._places.get((kind, address))
        return self._file.read(place) if place else None

    def is_answered(self, page: str) -> bool:
        """Whether the page's host responded, so that the page must not be requested again."""
        return page in self._answered
