"""Where pages come from: WARC archives, saved HTML, lists of addresses, and sitemaps."""

import dataclasses
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator

import lxml.etree
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.statusandheaders import StatusAndHeadersParserException

from data_prep.scrape.address import web_address
from data_prep.scrape.network import TOO_LARGE, Failure, inflated, read_body
from data_prep.scrape.postings import Page
from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs

SITEMAP_BYTES = 50 * 1024 * 1024  # the protocol's limit for a sitemap, decompressed
MEGABYTE = 10**6

_HTML_TYPES = re.compile(r'text/html|application/xhtml\+xml|$', re.IGNORECASE)
_CHUNK = 1 << 14
_PORTION = 1 << 16


def warc_pages(
    path: pathlib.Path, max_bytes: int, repairs: Repairs, on_megabytes: Callable[[int], None]
) -> Iterator[Page]:
    """Yields the HTML pages of an archive that were answered with status 200.

    Args:
      path: a WARC file, plain or compressed by gzip (each record by itself, or all as one).
      max_bytes: larger pages are left out.
      repairs: counts what is left out, and archives that are broken partway.
      on_megabytes: is told how many further megabytes of the file have been read.

    Raises:
      DataError: it cannot be read, or does not start as WARC.
    """
    reported = 0
    with _Archive(path) as archive:
        records = ArchiveIterator(archive)
        begun = False
        while True:
            try:
                record = next(records, None)
                if record is None:
                    break
                begun = True
                yield from _record_pages(record, path, max_bytes, repairs)
            except (ArchiveLoadFailed, StatusAndHeadersParserException, ValueError, zlib.error) as error:
                archive.broken = str(error).strip().split('\n')[0]
                break
            if megabytes := archive.bytes_read() // MEGABYTE - reported:
                reported += megabytes
                on_megabytes(megabytes)
        if not begun:
            raise DataError(f'{path}: {archive.broken or "no record in it"}; expected WARC, or WARC compressed by gzip')
        if archive.broken:
            repairs.add('archive broken partway', f'{path}: {archive.broken}')


def _record_pages(record, path: pathlib.Path, max_bytes: int, repairs: Repairs) -> Iterator[Page]:
    """Yields the page of a record, if it has one."""
    headers = record.http_headers
    if record.rec_type == 'resource':  # a page without its HTTP headers
        status, content_type = '200', record.rec_headers.get_header('Content-Type') or ''
    elif record.rec_type == 'response' and headers is not None:
        status, content_type = headers.get_statuscode(), headers.get_header('Content-Type') or ''
    else:
        return
    url = web_address(record.rec_headers.get_header('WARC-Target-URI') or '')
    if url is None or not _HTML_TYPES.match(content_type):
        return
    if status != '200':
        repairs.add(f'status {status}', url)
        return
    stream = record.content_stream()
    chunks = iter(lambda: stream.read(_CHUNK), b'')
    try:
        body = read_body(chunks, '', max_bytes)  # the stream decompresses by itself, in small portions
    except Failure:
        repairs.add(TOO_LARGE, f'{path}: {url}')
        return
    language = headers.get_header('Content-Language') if headers is not None else None
    yield Page(url, url, body, content_type or None, language)


class _Archive:
    """A file, decompressed if it is gzip. If it is cut short, reading ends there and `broken` says why."""

    def __init__(self, path: pathlib.Path):
        self.broken = ''
        try:
            self._raw = open(path, 'rb')  # noqa: SIM115 (closed by __exit__)
            compressed = self._raw.read(2) == b'\x1f\x8b'
            self._raw.seek(0)
        except OSError as error:
            raise DataError(f'{path}: cannot be read ({error.strerror})') from error
        chunks = iter(lambda: self._raw.read(_CHUNK), b'')
        self._chunks = inflated(chunks, _PORTION) if compressed else chunks
        self._rest = b''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Returns at most `size` bytes; none at the end."""
        try:
            while not self._rest:
                self._rest = next(self._chunks)
        except StopIteration:
            return b''
        except (Failure, OSError) as error:
            self.broken = 'gzip that is broken or ends early' if isinstance(error, Failure) else str(error)
            return b''
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def bytes_read(self) -> int:
        """How many bytes of the file on disk were read."""
        return self._raw.tell()


def html_pages(paths: list[pathlib.Path], max_bytes: int, repairs: Repairs) -> Iterator[Page]:
    """Yields saved pages; their address is the canonical one that they state.

    Raises:
      DataError: a file cannot be read.
    """
    for path in paths:
        try:
            with open(path, 'rb') as file:
                body = file.read(max_bytes + 1)
        except OSError as error:
            raise DataError(f'{path}: cannot be read ({error.strerror})') from error
        if len(body) > max_bytes:
            repairs.add(TOO_LARGE, str(path))
        else:
            yield Page(str(path), None, body)


def read_addresses(path: pathlib.Path) -> list[str]:
    """Reads a list of web addresses, one per line; blank lines and lines that begin with # are left out.

    Raises:
      DataError: the file cannot be read, is not UTF-8, has no address, or has a line that is not an address.
    """
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise DataError(f'{path}: byte 0x{error.object[error.start]:02x} is not UTF-8; save it as UTF-8') from error
    addresses = []
    for number, line in enumerate(text.split('\n'), start=1):
        if (line := line.strip()) and not line.startswith('#'):
            url = web_address(line)
            if url is None:
                raise DataError(f'{path}, line {number}: {line[:80]!r}, expected an address with http:// or https://')
            addresses.append(url)
    if not addresses:
        raise DataError(f'{path}: empty, it has no address')
    return addresses


@dataclasses.dataclass(frozen=True)
class Sitemap:
    """What a sitemap lists: pages, further sitemaps, and the number of entries that are not web addresses."""

    pages: list[str]
    sitemaps: list[str]
    invalid: int


def parse_sitemap(data: bytes) -> Sitemap:
    """Reads a sitemap or a sitemap index: XML or plain text, possibly compressed by gzip.

    Broken XML is read up to where it breaks.

    Raises:
      ValueError: it is not a sitemap, or larger than a sitemap may be.
    """
    if data.startswith(b'\x1f\x8b'):
        try:
            data = read_body([data], 'gzip', SITEMAP_BYTES)
        except Failure as failure:
            raise ValueError(failure.kind) from failure
    if not data.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'<'):
        lines = data.decode('utf-8-sig', 'replace').split()
        pages = [url for url in map(web_address, lines) if url]
        if not pages:
            raise ValueError('neither XML nor a list of addresses')
        return Sitemap(pages, [], len(lines) - len(pages))
    # Reads nothing outside the file and resolves no entity.
    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True, recover=True, load_dtd=False)
    try:
        root = lxml.etree.fromstring(data, parser)
    except lxml.etree.LxmlError as error:
        raise ValueError(str(error)) from error
    if root is None:  # there was nothing to recover
        raise ValueError('not XML')
    name = lxml.etree.QName(root).localname
    if name not in ('urlset', 'sitemapindex'):
        raise ValueError(f'its root is {name!r}, expected urlset or sitemapindex')
    entries = [(entry.text or '').strip() for entry in root.iterfind('{*}*/{*}loc')]
    urls = [url for url in map(web_address, entries) if url]
    invalid = len(entries) - len(urls)
    return Sitemap(urls, [], invalid) if name == 'urlset' else Sitemap([], urls, invalid)
