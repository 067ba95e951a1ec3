"""Asks for the pages of a list, host by host, several hosts at once, and keeps what came of each in the journal."""

import logging
import queue
import threading
import time
from collections.abc import Iterable

from data_prep.scrape.address import host_of
from data_prep.scrape.fetch import ANSWERED, Client
from data_prep.scrape.fetched import PAGE, SITEMAP, Entry, Fetched
from data_prep.scrape.postings import Page, vacancies
from data_prep.scrape.sources import SITEMAP_BYTES, parse_sitemap

logger = logging.getLogger(__name__)


GIVEN_UP = 'host given up, it did not answer'
BAD_SITEMAP = 'not a sitemap'

_SILENT_PAGES = 10  # in a row, after which a host is given up
_SITEMAP_DEPTH = 3  # the protocol allows an index to list sitemaps, not indexes
_PROGRESS = 10.0  # s, between two lines of the log


def read_sitemaps(urls: list[str], client: Client, fetched: Fetched, at_most: int) -> list[Entry]:
    """Reads sitemaps and those that they list, each once.

    Returns:
      What the journal has of them: `sitemap`, `outcome`, `heard`, `pages`, `sitemaps`, `invalid`; of the first
      `at_most`.
    """
    entries: dict[str, Entry] = {}
    level = urls
    for _ in range(_SITEMAP_DEPTH):
        for url in level:
            if url not in entries and len(entries) < at_most:
                entry = entries[url] = _sitemap(url, client, fetched)
                logger.info('sitemap %s: %s, %d pages', url, entry['outcome'], len(entry['pages']))
        level = [url for entry in entries.values() for url in entry['sitemaps'] if url not in entries]
    return list(entries.values())


def _sitemap(url: str, client: Client, fetched: Fetched) -> Entry:
    entry = fetched.get(SITEMAP, url)
    if entry is None or not entry['heard']:
        answer = client.get(url, SITEMAP_BYTES, html=False)
        entry = {'sitemap': url, 'outcome': answer.outcome, 'heard': answer.heard}
        entry |= {'pages': [], 'sitemaps': [], 'invalid': 0}
        if answer.outcome == ANSWERED:
            try:
                found = parse_sitemap(answer.body)
                entry |= {'pages': found.pages, 'sitemaps': found.sitemaps, 'invalid': found.invalid}
            except ValueError as error:
                entry['outcome'] = BAD_SITEMAP
                logger.warning('%s: %s', url, error)
        fetched.add(SITEMAP, entry)
    return entry


def crawl(urls: Iterable[str], client: Client, fetched: Fetched, hosts_at_once: int) -> None:
    """Asks for each page of which the journal has no answer.

    The journal gets, for each: `page` (its address), `url` (where it was found after redirects), `outcome`, `heard`,
    `vacancies`, `notes`.

    Raises:
      DataError: the journal cannot be written.
    """
    waiting: dict[str, list[str]] = {}
    known = total = 0
    for url in urls:
        total += 1
        if fetched.heard(url):
            known += 1
        else:
            waiting.setdefault(host_of(url), []).append(url)
    if known:
        logger.info('%d of %d pages were answered before', known, total)
    hosts: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for own in waiting.values():
        hosts.put(own)
    done: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()  # vacancies of a page, or what went wrong

    def work():
        try:
            while True:
                _host(hosts.get_nowait(), client, fetched, done)
        except queue.Empty:
            pass
        except BaseException as error:  # raised again by the main thread
            done.put(error)

    # Daemons: the program may end at any moment, and what is in the journal is safe.
    for _ in range(min(hosts_at_once, len(waiting))):
        threading.Thread(target=work, daemon=True).start()
    start = said = time.monotonic()
    postings = 0
    for number in range(1, total - known + 1):
        result = done.get()
        if isinstance(result, BaseException):
            raise result
        postings += result
        if (now := time.monotonic()) - said > _PROGRESS or number == total - known:
            said = now
            rate = number / (now - start)
            logger.info('%d of %d pages, %d postings, %.1f pages/s', known + number, total, postings, rate)


def _host(urls: list[str], client: Client, fetched: Fetched, done: queue.SimpleQueue) -> None:
    """The pages of one host, one after another."""
    silent = 0
    for url in urls:
        if silent < _SILENT_PAGES:
            entry = _page(url, client)
            silent = 0 if entry['heard'] else silent + 1
        else:
            entry = {'page': url, 'url': url, 'outcome': GIVEN_UP, 'heard': False, 'vacancies': [], 'notes': []}
        fetched.add(PAGE, entry)
        done.put(len(entry['vacancies']))


def _page(url: str, client: Client) -> Entry:
    answer = client.get(url)
    page = Page(answer.url, answer.url, answer.body, answer.content_type, answer.language)
    found, notes = vacancies(page)
    entry = {'page': url, 'url': answer.url, 'outcome': answer.outcome, 'heard': answer.heard}
    return entry | {'vacancies': found, 'notes': notes}
