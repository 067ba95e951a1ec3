"""Crawls a list of pages: one after another within a host, several hosts in parallel, each outcome in the journal."""

import logging
import queue
import threading
from collections.abc import Iterable

from data_prep.scrape.address import host_of
from data_prep.scrape.client import ANSWERED, Client
from data_prep.scrape.journal import PAGE, SITEMAP, CrawlJournal, Entry
from data_prep.scrape.postings import Page, vacancies
from data_prep.scrape.sources import SITEMAP_BYTES, parse_sitemap
from uwe_jax.io.console import Progress

logger = logging.getLogger(__name__)

GIVEN_UP = 'host given up, it did not answer'
BAD_SITEMAP = 'not a sitemap'

_SILENT_PAGES = 10  # in a row, after which a host is given up
_SITEMAP_DEPTH = 3  # the protocol allows an index to list sitemaps, not indexes


def read_sitemaps(urls: list[str], client: Client, journal: CrawlJournal, at_most: int) -> list[Entry]:
    """Reads sitemaps and the sitemaps that they list, each once.

    Returns:
      The journal's entries for the first `at_most`: `sitemap`, `outcome`, `heard`, `pages`, `sitemaps`, `invalid`.
    """
    entries: dict[str, Entry] = {}
    level = urls
    for _ in range(_SITEMAP_DEPTH):
        for url in level:
            if url not in entries and len(entries) < at_most:
                entry = entries[url] = _sitemap(url, client, journal)
                logger.info('sitemap %s: %s, %d pages', url, entry['outcome'], len(entry['pages']))
        level = [url for entry in entries.values() for url in entry['sitemaps'] if url not in entries]
    return list(entries.values())


def _sitemap(url: str, client: Client, journal: CrawlJournal) -> Entry:
    entry = journal.get(SITEMAP, url)
    if entry is None or not entry['heard']:
        answer = client.get(url, SITEMAP_BYTES, html=False)
        entry = {'sitemap': url, 'outcome': answer.outcome, 'heard': answer.final}
        entry |= {'pages': [], 'sitemaps': [], 'invalid': 0}
        if answer.outcome == ANSWERED:
            try:
                sitemap = parse_sitemap(answer.body)
                entry |= {'pages': sitemap.pages, 'sitemaps': sitemap.sitemaps, 'invalid': sitemap.invalid}
            except ValueError as error:
                entry['outcome'] = BAD_SITEMAP
                logger.warning('%s: %s', url, error)
        journal.add(SITEMAP, entry)
    return entry


def crawl(urls: Iterable[str], client: Client, journal: CrawlJournal, hosts_at_once: int) -> None:
    """Requests each page for which the journal has no answer.

    The journal gets an entry for each page: `page` (its address), `url` (its address after redirects), `outcome`,
    `heard`, `vacancies`, `notes`.

    Raises:
      DataError: the journal cannot be written.
    """
    waiting: dict[str, list[str]] = {}
    answered = remaining = 0
    for url in urls:
        if journal.is_answered(url):
            answered += 1
        else:
            remaining += 1
            waiting.setdefault(host_of(url), []).append(url)
    if answered:
        logger.info('%d of %d pages were answered before', answered, answered + remaining)
    if not remaining:
        return
    hosts: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for pages in waiting.values():
        hosts.put(pages)
    results: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()  # vacancies of a page, or what went wrong

    def work():
        try:
            while True:
                _crawl_host(hosts.get_nowait(), client, journal, results)
        except queue.Empty:
            pass
        except BaseException as error:  # the main thread raises it again
            results.put(error)

    # Daemon threads: the program may end at any moment, and what is in the journal is safe.
    for _ in range(min(hosts_at_once, len(waiting))):
        threading.Thread(target=work, daemon=True).start()
    postings = 0
    with Progress('crawling', answered + remaining, 'pages', done=answered) as progress:
        for _ in range(remaining):
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            postings += result
            progress.advance(note=f'{postings} postings')


def _crawl_host(urls: list[str], client: Client, journal: CrawlJournal, results: queue.SimpleQueue) -> None:
    silent = 0
    for url in urls:
        if silent < _SILENT_PAGES:
            entry = _page(url, client)
            silent = 0 if entry['heard'] else silent + 1
        else:
            entry = {'page': url, 'url': url, 'outcome': GIVEN_UP, 'heard': False, 'vacancies': [], 'notes': []}
        journal.add(PAGE, entry)
        results.put(len(entry['vacancies']))


def _page(url: str, client: Client) -> Entry:
    answer = client.get(url)
    page = Page(answer.url, answer.url, answer.body, answer.content_type, answer.language)
    postings, notes = vacancies(page)
    entry = {'page': url, 'url': answer.url, 'outcome': answer.outcome, 'heard': answer.final}
    return entry | {'vacancies': postings, 'notes': notes}
