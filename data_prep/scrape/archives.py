"""WARC archives: the HTML pages in them, and what is still intact where an archive is damaged.

Archives are plain, or compressed by gzip or zstd: each record as a member of its own, or all as one. After damage,
reading goes on at the next member or, in a plain archive, at the next record; in an archive that is one member, what
follows is lost. A page is yielded only after its member has ended well, because its checksum stands there.
"""

import io
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from fastwarc import warc
from fastwarc.stream_io import BrotliReader, GzipReader, WarcReader, ZstdReader

from data_prep.scrape.address import web_address
from data_prep.scrape.network import TOO_LARGE
from data_prep.scrape.postings import Page
from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs

MEGABYTE = 10**6

DAMAGED = 'damaged part of an archive, passed over'
NO_PAGES = 'archive without any page'
NO_ADDRESS = 'page without a web address, left out'
NOT_DECODED = 'body that cannot be decoded'

# How a member or a plain record begins, and what decompresses it. A zstd archive may begin with a dictionary.
_KINDS = (
    (re.compile(rb'\x1f\x8b\x08'), GzipReader),
    (re.compile(rb'\x28\xb5\x2f\xfd|\x5d\x2a\x4d\x18'), ZstdReader),
    (re.compile(rb'WARC/\d\.\d+\r?\n'), None),
)
_RECORD = re.compile(rb'\r\n\r\nWARC/\d\.\d+\r\nWARC-', re.IGNORECASE)
_LONGEST_START = 16  # bytes
_HTTP_TYPE = re.compile(r'application/http\b|$', re.IGNORECASE)
_HTML_TYPES = re.compile(r'text/html|application/xhtml\+xml|$', re.IGNORECASE)
_CHUNK = re.compile(rb'\s*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\n]*)?\r?\n')  # the line with its size
_DECODERS = {'gzip': GzipReader, 'x-gzip': GzipReader, 'br': BrotliReader, 'zstd': ZstdReader}
_PORTION = 1 << 14
_DAMAGE = OSError, EOFError, ValueError  # what FastWARC raises, and `_Archive._page`


def warc_pages(
    path: pathlib.Path, max_bytes: int, repairs: Repairs, on_megabytes: Callable[[int], None]
) -> Iterator[Page]:
    """Yields the HTML pages of an archive that were answered with status 200.

    Args:
      path: a WARC file.
      max_bytes: larger pages are left out.
      repairs: counts what is left out, damaged parts, and archives without pages.
      on_megabytes: is told how many further megabytes of the file have been read.

    Raises:
      DataError: the file cannot be read, or has no WARC record.
    """
    try:
        file = open(path, 'rb')  # noqa: SIM115 (closed by the next line)
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from error
    with file:
        archive = _Archive(path, file, max_bytes, repairs)
        reported = 0
        for page in archive.pages():
            yield page
            if (megabytes := file.tell() // MEGABYTE - reported) > 0:
                reported += megabytes
                on_megabytes(megabytes)
    if not archive.records:
        raise DataError(f'{path}: no record in it; expected WARC, plain or compressed by gzip or zstd')
    if not archive.html_records:
        repairs.add(NO_PAGES, f'{path}: {archive.records} records, none an HTML response or resource')


class _Archive:
    """An open archive.

    Attributes:
      records, html_records: how many were read.
    """

    def __init__(self, path: pathlib.Path, file: BinaryIO, max_bytes: int, repairs: Repairs):
        self._path, self._file, self._max_bytes, self._repairs = path, file, max_bytes, repairs
        self.records = self.html_records = 0

    def pages(self) -> Iterator[Page]:
        """Yields the intact pages, and counts the parts that are damaged."""
        head = os.pread(self._file.fileno(), MEGABYTE, 0)
        starts = [(match.start(), kind) for kind, (start, _) in enumerate(_KINDS) if (match := start.search(head))]
        # If the beginning is damaged, the first start may be inside a body, and headers may show in a compressed member.
        for position, kind in sorted(starts, key=lambda at: (at[0] > 0, _KINDS[at[1]][1] is None, at[0])):
            yield from self._pages_of_kind(kind, position)
            if self.records:
                if position:
                    self._repairs.add(DAMAGED, f'{self._path}, byte 0: no WARC')
                return

    def _pages_of_kind(self, kind: int, position: int | None) -> Iterator[Page]:
        start, decompress = _KINDS[kind]
        members = decompress(self._file) if decompress else None
        size = os.fstat(self._file.fileno()).st_size
        is_damaged = position != 0  # whether what was read last is known to be damaged
        while position is not None:
            (members.inner_seek if members else self._file.seek)(position)
            page = None  # of the last record, while its member may still end badly
            try:
                for record in warc.ArchiveIterator(members or self._file, parse_http=False, stream_detect=False):
                    if page:
                        yield page
                        page = None
                    position = _member_start(members) if members else record.stream_pos
                    page = self._page(record)
                    is_damaged = False
                if page:
                    yield page
                if not members or not position < members.inner_tell() < size:
                    return
                position = members.inner_tell()  # an empty member of gzip has ended the iteration
            except _DAMAGE as error:
                ended_well = members is None or _member_start(members) > position
                if page and ended_well:
                    yield page
                if not is_damaged:
                    self._repairs.add(DAMAGED, f'{self._path}, after byte {position}: {str(error)[:80]}')
                is_damaged = True
                position = _find(start, self._file, position + 1)

    def _page(self, record: warc.WarcRecord) -> Page | None:
        """The page of a record, if it has one.

        Raises:
          ValueError, EOFError: the record is damaged.
        """
        lengths, kinds = map(record.headers.get_multiple, ('Content-Length', 'WARC-Type'))
        if list(map(int, lengths)) != [record.content_length] or len(kinds) != 1:
            raise ValueError('the header of a record is damaged')  # two headers may have become one
        self.records += 1
        page = self._html(record, kinds[0]) if kinds[0] in ('response', 'resource') else None
        record.consume()
        if record.reader.tell() < record.content_length:
            raise EOFError('the archive ends within a record')
        return page

    def _html(self, record: warc.WarcRecord, kind: str) -> Page | None:
        headers = record.headers
        if kind == 'response':
            # FastWARC sees HTTP only where the header is written in the usual way.
            record.is_http = bool(_HTTP_TYPE.match(headers.get('Content-Type') or ''))
            record.parse_http(max_header_len=MEGABYTE, quirks_mode=True)
            headers = record.http_headers
            if headers is None:  # an answer by another protocol
                return None
        content_type = headers.get('Content-Type') or ''
        if not _HTML_TYPES.match(content_type):
            return None
        self.html_records += 1
        address = record.headers.get('WARC-Target-URI') or ''
        url = web_address(address.removeprefix('<').removesuffix('>'))  # as some versions of wget write it
        example = f'{self._path}: {address or record.record_id}'
        if url is None:
            self._repairs.add(NO_ADDRESS, example)
        elif kind == 'response' and headers.status_code != 200:
            self._repairs.add(f'status {headers.status_code}', url)
        else:
            try:
                block = _read(record.reader, self._max_bytes)
                if _RECORD.search(block):
                    raise ValueError('a record has swallowed the next one')  # its length is wrong
                body = _decoded(block, headers, self._max_bytes)
                return Page(url, url, body, content_type or None, headers.get('Content-Language'))
            except _NoPage as reason:
                self._repairs.add(str(reason), example)
        return None


class _NoPage(Exception):  # noqa: N818 (an outcome that is counted, not an error of the program)
    """A body that is not used, and why."""


def _member_start(members: WarcReader) -> int:
    """Where the member that is being read begins in the file."""
    return members.frame_start_position() or 0


def _find(start: re.Pattern[bytes], file: BinaryIO, position: int) -> int | None:
    """Where the next member or record seems to begin, from a position on; does not move the file."""
    tail = b''
    while chunk := os.pread(file.fileno(), MEGABYTE, position):
        if match := start.search(tail + chunk):
            return position - len(tail) + match.start()
        position += len(chunk)
        tail = (tail + chunk)[-_LONGEST_START:]
    return None


def _read(reader: WarcReader, max_bytes: int, *, until_damage: bool = False) -> bytes:
    """Reads to the end or, if `until_damage`, to where the data is damaged.

    Raises:
      _NoPage: there is more than `max_bytes`.
      OSError: damaged, or nothing comes before the damage.
    """
    body = bytearray()
    try:
        while part := reader.read(_PORTION):
            body += part
            if len(body) > max_bytes:
                raise _NoPage(TOO_LARGE)
    except OSError:
        if not (until_damage and body):
            raise
    return bytes(body)


def _decoded(body: bytes, headers: warc.HeaderMap, max_bytes: int) -> bytes:
    """Undoes the codings that headers state.

    Of a body that was cut off, the beginning is used. Crawlers often write a body decoded and keep the header: a body
    that does not decode is used as it is if it begins with a tag.

    Raises:
      _NoPage: it cannot be decoded, or is too large.
    """
    stated = f'{headers.get("Content-Encoding") or ""},{headers.get("Transfer-Encoding") or ""}'
    for coding in reversed([coding.strip().lower() for coding in stated.split(',')]):
        if coding in ('', 'identity'):
            continue
        try:
            if coding == 'deflate':
                body = _inflated(body, max_bytes)
            elif coding == 'chunked':
                body = _joined(body)
            elif coding in _DECODERS:
                body = _read(_DECODERS[coding](io.BytesIO(body)), max_bytes, until_damage=True)
            else:
                raise ValueError(coding)
        except (OSError, ValueError, zlib.error) as error:
            if not body.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'<'):
                raise _NoPage(NOT_DECODED) from error
    return body


def _joined(body: bytes) -> bytes:
    """Joins the chunks of a body."""
    if not _CHUNK.match(body):
        raise ValueError('not in chunks')
    parts, position = [], 0
    while chunk := _CHUNK.match(body, position):
        position = chunk.end() + int(chunk[1], 16)
        parts.append(body[chunk.end() : position])
    return b''.join(parts)


def _inflated(body: bytes, max_bytes: int) -> bytes:
    """Undoes `deflate`, which some servers send without its header."""
    try:
        data = zlib.decompressobj().decompress(body, max_bytes + 1)
    except zlib.error:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, max_bytes + 1)
    if len(data) > max_bytes:
        raise _NoPage(TOO_LARGE)
    return data
