"""The recipe: read archives and saved pages, fetch what is listed, write each vacancy once, and count."""

import hashlib
import ipaddress
import json
import logging
import pathlib
import re
import shutil
import urllib.parse
from collections import Counter
from importlib import metadata
from typing import Any

from data_prep.scrape.address import host_of, web_address
from data_prep.scrape.archives import MEGABYTE, warc_pages
from data_prep.scrape.assemble import Assembly, write_piece
from data_prep.scrape.client import ANSWERED, Client, Limits
from data_prep.scrape.crawl import BAD_SITEMAP, crawl, read_sitemaps
from data_prep.scrape.journal import PAGE, CrawlJournal
from data_prep.scrape.network import Allowed, Network
from data_prep.scrape.options import SOURCES, Options
from data_prep.scrape.robots import PRODUCT
from data_prep.scrape.sources import html_pages, parse_sitemap, read_addresses
from uwe_jax.io.claims import claim
from uwe_jax.io.console import Progress
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.files import files_of
from uwe_jax.io.repairs import Repairs

logger = logging.getLogger(__name__)

# These must stay the same when a run is resumed; the rate and the contact may change.
_SETTINGS = (*SOURCES, 'max_bytes', 'max_seconds', 'max_pages', 'max_redirects')
_VACANCIES, _SUMMARY = 'vacancies.jsonl', 'summary.json'


def scrape(options: Options, command: str) -> None:
    """See `data_prep.scrape.run`."""
    output = options.output
    work = output.with_name(f'{output.name}.partial')
    complete = work / 'complete'  # marks that the files to rename are complete
    with writing(output, 'the same command resumes it'), claim(output):
        if output.exists():
            if not complete.exists():
                raise DataError(f'{output}: already there; choose another --output or remove it')
            shutil.rmtree(work)
            logger.info('%s was complete', output)
            return
        counts = _collect(options, work)
        content = json.dumps({'command': command} | counts, indent=2, ensure_ascii=False) + '\n'
        (work / _SUMMARY).write_text(content, encoding='utf-8')
        complete.touch()
        (work / _SUMMARY).replace(output.with_name(f'{output.name}.{_SUMMARY}'))
        (work / _VACANCIES).replace(output)
        shutil.rmtree(work)
    for what, kinds in counts.items():
        for kind, repair in kinds.items():
            logger.info('%s: %s: %d', what, kind, repair['count'])
    logger.info('%s is complete', output)


def _collect(options: Options, work: pathlib.Path) -> dict[str, Any]:
    """Reads and fetches all pages and writes their vacancies; returns the counts of addresses, pages and postings."""
    warc = files_of(options.warc, '--warc')
    html = files_of(options.html, '--html')
    addresses = Repairs()
    pages, sitemaps = _listed(options, addresses)
    agent = f'{PRODUCT}/{metadata.version("uwe_jax")} (+{options.contact})'
    network = Network(agent, _allowed(options.allow_host))
    limits = Limits(options.max_seconds, options.max_bytes, options.max_redirects)
    work.mkdir(parents=True, exist_ok=True)
    with CrawlJournal(work / 'journal.jsonl', {name: getattr(options, name) for name in _SETTINGS}) as journal:
        pieces = _read_pieces(work, warc, html, options.max_bytes)
        client = Client(network, limits, options.rate, journal)
        pages += _listed_by(sitemaps, client, journal, options.max_pages, addresses)
        chosen = _chosen(pages, options.max_pages, addresses)
        crawl(chosen, client, journal, options.hosts_at_once)
        with open(work / _VACANCIES, 'w', encoding='utf-8', newline='\n') as file:
            assembly = Assembly(file)
            for piece in pieces:
                assembly.add_piece(piece)
            for url in chosen:
                assembly.add_fetched(journal.get(PAGE, url) or {})
            return {'addresses': addresses.summary()} | assembly.finish()


def _allowed(values: tuple[str, ...]) -> Allowed:
    allowed = set()
    for value in values:
        try:
            parts = urllib.parse.urlsplit(f'//{value}')
            if not parts.port:
                raise ValueError('no port')
            allowed.add((str(ipaddress.ip_address(parts.hostname or '')), parts.port))
        except ValueError as error:
            raise DataError(f'--allow_host={value}: expected an address and a port, such as 127.0.0.1:8000') from error
    return frozenset(allowed)


def _read_pieces(
    work: pathlib.Path, warc: list[pathlib.Path], html: list[pathlib.Path], max_bytes: int
) -> list[pathlib.Path]:
    """Returns files with the vacancies of each archive, and of all saved pages together.

    What an earlier run has read is not read again, unless it has changed.
    """
    pieces = []
    sizes = {path: path.stat().st_size // MEGABYTE for path in warc}
    if warc:
        with Progress('reading archives', sum(sizes.values()), 'MB') as progress:
            for path in warc:
                pieces.append(piece := _piece(work, [path]))
                if piece.exists():
                    progress.advance(sizes[path])
                    continue
                repairs = Repairs()
                write_piece(piece, warc_pages(path, max_bytes, repairs, progress.advance), repairs)
    if html:
        pieces.append(piece := _piece(work, html))
        if not piece.exists():
            repairs = Repairs()
            write_piece(piece, html_pages(html, max_bytes, repairs), repairs)
            logger.info('read %d saved pages', len(html))
    return pieces


def _piece(work: pathlib.Path, paths: list[pathlib.Path]) -> pathlib.Path:
    """Where the vacancies of files are kept: the name depends on the files' names, sizes and times."""
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return work / f'{hashlib.sha256(repr(stats).encode()).hexdigest()[:16]}.jsonl'


def _listed(options: Options, addresses: Repairs) -> tuple[list[str], list[str]]:
    """The pages in lists and in sitemap files, and the sitemaps that must be fetched."""
    pages = [url for path in options.urls for url in read_addresses(pathlib.Path(path))]
    sitemaps: list[str] = []
    for name in options.sitemap:
        if re.match('https?://', name):
            if (url := web_address(name)) is None:
                raise DataError(f'--sitemap={name}: not a web address')
            sitemaps.append(url)
            continue
        try:
            sitemap = parse_sitemap(pathlib.Path(name).read_bytes())
        except OSError as error:
            raise DataError(f'--sitemap={name}: cannot be read ({error.strerror})') from error
        except ValueError as error:
            raise DataError(f'--sitemap={name}: {BAD_SITEMAP} ({error})') from error
        pages += sitemap.pages
        sitemaps += sitemap.sitemaps
        _count_invalid(sitemap.invalid, name, addresses)
    return pages, list(dict.fromkeys(sitemaps))


def _listed_by(
    sitemaps: list[str], client: Client, journal: CrawlJournal, at_most: int, addresses: Repairs
) -> list[str]:
    """The pages that sitemaps list; some of the sitemaps may fail, but not all."""
    pages: list[str] = []
    for entry in read_sitemaps(sitemaps, client, journal, at_most):
        pages += entry['pages']
        _count_invalid(entry['invalid'], entry['sitemap'], addresses)
        if entry['outcome'] != ANSWERED:
            addresses.add(f'sitemap: {entry["outcome"]}', entry['sitemap'])
    if sitemaps and not pages:
        reasons = ', '.join(addresses.summary()) or 'it lists none'
        raise DataError(f'{sitemaps[0]}: no page found ({reasons}); expected a sitemap')
    return pages


def _count_invalid(number: int, sitemap: str, addresses: Repairs) -> None:
    for _ in range(number):
        addresses.add('not a web address, left out', sitemap)


def _chosen(pages: list[str], at_most: int, addresses: Repairs) -> list[str]:
    """Each address once, and at most `at_most` of each host."""
    chosen: dict[str, None] = {}
    hosts: Counter[str] = Counter()
    for url in pages:
        host = host_of(url)
        if url in chosen:
            addresses.add('repeated, requested once', url)
        elif hosts[host] == at_most:
            addresses.add('above --max_pages of its host, not requested', url)
        else:
            hosts[host] += 1
            chosen[url] = None
    return list(chosen)
