"""The recipe: read archives and saved pages, fetch what is listed, write each vacancy once, and count."""

import contextlib
import hashlib
import ipaddress
import json
import logging
import pathlib
import re
import shutil
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from importlib import metadata

from data_prep.scrape import Options
from data_prep.scrape.address import host_of, web_address
from data_prep.scrape.assemble import Assembly, write_piece
from data_prep.scrape.crawl import BAD_SITEMAP, crawl, read_sitemaps
from data_prep.scrape.fetch import ANSWERED, Client, Limits
from data_prep.scrape.fetched import PAGE, Fetched
from data_prep.scrape.network import Allowed, Network
from data_prep.scrape.robots import PRODUCT
from data_prep.scrape.sources import html_pages, parse_sitemap, read_addresses, warc_pages
from uwe_jax.io.errors import DataError, writing
from uwe_jax.io.files import files_of
from uwe_jax.io.repairs import Repairs

logger = logging.getLogger(__name__)


_CONTACT = re.compile(r'[!-~]+@[!-~]+\.[!-~]+|https?://[!-~]+')
_SOURCES = ('warc', 'html', 'urls', 'sitemap')
# What must stay the same for a run to go on; the rate, and who asks, may change.
_SETTINGS = (*_SOURCES, 'max_bytes', 'max_seconds', 'max_pages', 'max_redirects')


def scrape(options: Options, command: str) -> None:
    """What `data_prep.scrape.run` says."""
    output: pathlib.Path = options.output
    work = output.with_name(output.name + '.partial')
    complete = work / 'complete'  # what was to be renamed is complete; renaming it may be left
    with writing(output, 'the same command goes on'):
        if output.exists():
            if not complete.exists():
                raise DataError(f'{output}: already there; choose another --output or remove it')
            shutil.rmtree(work)
            logger.info('%s was complete', output)
            return
        _check(options)
        warc = files_of(options.warc, '--warc')
        html = files_of(options.html, '--html')
        counted = Repairs()  # of addresses
        listed, below = _given(options, counted)
        agent = f'{PRODUCT}/{metadata.version("uwe_jax")} (+{options.contact})'
        network = Network(agent, _allowed(options.allow_host))
        work.mkdir(parents=True, exist_ok=True)
        values = {name: getattr(options, name) for name in _SETTINGS}
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}  # as JSON has them
        with contextlib.closing(Fetched(work / 'journal.jsonl', settings)) as fetched:
            pieces = _read_pieces(work, warc, html, options.max_bytes)
            limits = Limits(options.max_seconds, options.max_bytes, options.max_redirects)
            client = Client(network, limits, options.rate, fetched)
            listed += _listed_by(below, client, fetched, options.max_pages, counted)
            asked = _chosen(listed, options.max_pages, counted)
            crawl(asked, client, fetched, options.hosts_at_once)
            with open(work / 'vacancies.jsonl', 'w', encoding='utf-8', newline='\n') as file:
                assembly = Assembly(file)
                for piece in pieces:
                    assembly.add_piece(piece)
                for url in asked:
                    assembly.add_fetched(fetched.get(PAGE, url) or {})
                counts = {'addresses': counted.summary()} | assembly.finish()
            summary = work / 'summary.json'
            content = json.dumps({'command': command} | counts, indent=2, ensure_ascii=False) + '\n'
            summary.write_text(content, encoding='utf-8')
            complete.touch()
            summary.replace(output.with_name(output.name + '.summary.json'))
            (work / 'vacancies.jsonl').replace(output)
        shutil.rmtree(work)
    for what, kinds in counts.items():
        for kind, repair in kinds.items():
            logger.info('%s: %s: %d', what, kind, repair['count'])
    logger.info('%s is complete', output)


def _check(options: Options) -> None:
    """Refuses flags before any work."""
    if not any(getattr(options, name) for name in _SOURCES):
        raise DataError('nothing to read: give --warc, --html, --urls or --sitemap')
    for name in ('rate', 'hosts_at_once', 'max_pages', 'max_bytes', 'max_seconds'):
        if not getattr(options, name) > 0:
            raise DataError(f'--{name}={getattr(options, name)}: expected more than 0')
    if options.max_redirects < 0:
        raise DataError(f'--max_redirects={options.max_redirects}: expected 0 or more')
    if options.contact is not None and not _CONTACT.fullmatch(options.contact):
        raise DataError(f'--contact={options.contact!r}: expected a mail address, or a web page with http(s)://')
    if options.contact is None and (options.urls or options.sitemap):
        raise DataError('--urls and --sitemap fetch pages: give --contact, so that a host can reach you')


def _allowed(values: Sequence[str]) -> Allowed:
    found = set()
    for value in values:
        try:
            parts = urllib.parse.urlsplit(f'//{value}')
            found.add((str(ipaddress.ip_address(parts.hostname or '')), parts.port or 0))
        except ValueError as error:
            raise DataError(f'--allow_host={value}: expected an address and a port, such as 127.0.0.1:8000') from error
    return frozenset(found)


def _read_pieces(
    work: pathlib.Path, warc: list[pathlib.Path], html: list[pathlib.Path], max_bytes: int
) -> list[pathlib.Path]:
    """Reads each archive, and the saved pages together, unless that was done; returns the files with their vacancies.

    A file that changed since then is read again.
    """
    sources = [[path] for path in warc] + ([html] if html else [])
    pieces = []
    for paths in sources:
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        piece = work / f'{hashlib.sha256(repr(stats).encode()).hexdigest()[:16]}.jsonl'
        pieces.append(piece)
        if not piece.exists():
            repairs = Repairs()
            archive = paths is not html
            pages = warc_pages(paths[0], max_bytes, repairs) if archive else html_pages(html, max_bytes, repairs)
            write_piece(piece, pages, repairs)
            logger.info('read %s', paths[0] if archive else f'{len(html)} saved pages')
    return pieces


def _given(options: Options, counted: Repairs) -> tuple[list[str], list[str]]:
    """The pages of lists and of sitemaps that are files, and the sitemaps that are to be fetched."""
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
        _count_invalid(sitemap.invalid, name, counted)
    return pages, list(dict.fromkeys(sitemaps))


def _listed_by(sitemaps: list[str], client: Client, fetched: Fetched, at_most: int, counted: Repairs) -> list[str]:
    """The pages that sitemaps list; some of them may fail, not all."""
    found: list[str] = []
    for entry in read_sitemaps(sitemaps, client, fetched, at_most):
        found += entry['pages']
        _count_invalid(entry['invalid'], entry['sitemap'], counted)
        if entry['outcome'] != ANSWERED:
            counted.add(f'sitemap: {entry["outcome"]}', entry['sitemap'])
    if sitemaps and not found:
        reasons = ', '.join(counted.summary()) or 'it lists none'
        raise DataError(f'{sitemaps[0]}: no page found ({reasons}); expected a sitemap')
    return found


def _count_invalid(number: int, sitemap: str, counted: Repairs) -> None:
    for _ in range(number):
        counted.add('no web address, left out', sitemap)


def _chosen(listed: list[str], at_most: int, counted: Repairs) -> list[str]:
    """Each address once, and the first so many of each host."""
    chosen: dict[str, None] = {}
    hosts: Counter[str] = Counter()
    for url in listed:
        host = host_of(url)
        if url in chosen:
            counted.add('repeated, asked once', url)
        elif hosts[host] == at_most:
            counted.add('above --max_pages of its host, not asked', url)
        else:
            hosts[host] += 1
            chosen[url] = None
    return list(chosen)
