"""Where pages come from, besides archives: saved HTML, lists of addresses, and sitemaps."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

import lxml.etree

from data_prep.scrape.address import web_address
from data_prep.scrape.network import TOO_LARGE, Failure, read_body
from data_prep.scrape.postings import Page
from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs

SITEMAP_BYTES = 50 * 1024 * 1024  # the protocol's limit for a sitemap, decompressed
_BARE_AMPERSAND = re.compile(rb'(<!\[CDATA\[[^<\]]*)|&(?![A-Za-z]\w{0,30};|#\w{1,8};)')


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

    Ampersands in addresses need not be escaped. Broken XML is read up to where it breaks.

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
        root = lxml.etree.fromstring(_BARE_AMPERSAND.sub(lambda match: match[1] or b'&amp;', data), parser)
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
