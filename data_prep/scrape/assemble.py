"""Merges what was read and fetched into one file of vacancies: in the order of the sources, without duplicates."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any, TextIO

from data_prep.scrape.client import ANSWERED
from data_prep.scrape.journal import Entry
from data_prep.scrape.postings import Page, Vacancy, vacancies
from uwe_jax.data.text import match_key
from uwe_jax.io.files import whole_file
from uwe_jax.io.repairs import Repairs

POSTINGS = 'with postings'
NO_POSTING = 'no posting'
SAME_ADDRESS = 'same address as a page before, dropped'
WRITTEN = 'written'
SAME_CONTENT = 'same title and description as one before, dropped'


def write_piece(path: pathlib.Path, pages: Iterable[Page], repairs: Repairs) -> None:
    """Writes the vacancies of pages to a file, which appears when all pages have been read.

    Args:
      path: the file: one line per page with vacancies or notes, and a last one with the counts.
      pages: an iterator that may fill `repairs` as it goes.
      repairs: counts the pages that are left out.

    Raises:
      DataError: a page cannot be read.
      OSError: the file cannot be written.
    """
    with whole_file(path) as partial, open(partial, 'w', encoding='utf-8') as file:
        for page in pages:
            postings, notes = vacancies(page)
            if not postings:
                repairs.add(NO_POSTING, page.name)
            if postings or notes:
                line = {'page': page.name, 'url': page.url, 'vacancies': postings, 'notes': notes}
                file.write(json.dumps(line, ensure_ascii=False) + '\n')
        file.write(json.dumps({'counts': repairs.summary()}, ensure_ascii=False) + '\n')


class Assembly:
    """Writes each vacancy once, and counts the outcomes of pages and postings.

    Of several pages with the same address, the first is kept. Of several vacancies whose
    titles and descriptions differ only in case and spaces, the first is kept too.

    Args:
      file: gets one JSON line per vacancy.

    Attributes:
      pages, postings: the counts.
    """

    def __init__(self, file: TextIO):
        self._file = file
        self._addresses: set[bytes] = set()
        self._contents: set[bytes] = set()
        self.pages = Repairs()
        self.postings = Repairs()

    def add_piece(self, path: pathlib.Path) -> None:
        """Adds what `write_piece` wrote."""
        with open(path, encoding='utf-8', newline='\n') as file:
            for line in map(json.loads, file):
                if 'counts' in line:
                    self.pages.merge(line['counts'])
                else:
                    self._add(line)

    def add_fetched(self, entry: Entry) -> None:
        """Adds a page from its entry in the journal."""
        if entry['outcome'] != ANSWERED:
            self.pages.add(entry['outcome'], entry['page'])
            return
        if not entry['vacancies']:
            self.pages.add(NO_POSTING, entry['page'])
        self._add(entry)

    def _add(self, line: Entry) -> None:
        for note in line['notes']:
            self.postings.add(note, line['page'])
        if not line['vacancies']:
            return
        if line['url'] and _is_known(self._addresses, line['url']):
            self.pages.add(SAME_ADDRESS, line['page'])
            return
        self.pages.add(POSTINGS, line['page'])
        for vacancy in line['vacancies']:
            self._add_vacancy(vacancy, line['page'])

    def _add_vacancy(self, vacancy: Vacancy, page: str) -> None:
        told = match_key(vacancy['description']) or json.dumps(vacancy['skills'])
        content = f'{match_key(vacancy["title"])}\n{told}'
        if _is_known(self._contents, content):
            self.postings.add(SAME_CONTENT, page)
        else:
            self.postings.add(WRITTEN, page)
            self._file.write(json.dumps(vacancy, ensure_ascii=False) + '\n')

    def finish(self) -> dict[str, Any]:
        """Makes the file durable; returns the counts by kind, with examples."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {'pages': self.pages.summary(), 'postings': self.postings.summary()}


def _is_known(seen: set[bytes], text: str) -> bool:
    """Whether a text was seen before; remembers it by a digest of 16 bytes, so that millions of texts fit."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    known = digest in seen
    seen.add(digest)
    return known
