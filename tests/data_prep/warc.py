"""WARC archives as crawlers write them, and as disks and networks leave them."""

import gzip
import io
from collections.abc import Callable, Iterable

from fastwarc.stream_io import BrotliWriter, WarcWriter, ZstdWriter

from tests.data_prep.web import HTML

Response = tuple[str, int, dict[str, str], str | bytes]  # address, status, headers, body


def compressor(writer: Callable[[io.BytesIO], WarcWriter]) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        buffer = io.BytesIO()
        with writer(buffer) as stream:
            stream.write(data)
        return buffer.getvalue()

    return compress


zstd, brotli = compressor(ZstdWriter), compressor(BrotliWriter)
MEMBERS: dict[str, Callable[[bytes], bytes]] = {'plain': bytes, 'gzip': gzip.compress, 'zstd': zstd}


def record(kind: str, url: str | None, block: bytes, content_type='application/http', length: object = None) -> bytes:
    """A record of a WARC file, whose length may be a lie."""
    lines = ['WARC/1.0', f'WARC-Type: {kind}', *([f'WARC-Target-URI: {url}'] if url else [])]
    lines += ['WARC-Record-ID: <urn:uuid:0>', 'WARC-Date: 2026-01-01T00:00:00Z', f'Content-Type: {content_type}']
    lines += [f'Content-Length: {len(block) if length is None else length}', '', '']
    return '\r\n'.join(lines).encode() + block + b'\r\n\r\n'


def response(url: str | None, body: str | bytes, headers=HTML, status: object = 200, length: object = None) -> bytes:
    """A record of an answer."""
    lines = [f'HTTP/1.1 {status} x', *(f'{name}: {value}' for name, value in headers.items()), '', '']
    block = '\r\n'.join(lines).encode() + (body.encode() if isinstance(body, str) else body)
    return record('response', url, block, length=length)


def records(responses: Iterable[Response]) -> list[bytes]:
    """The records of a crawl: a description, and each answer after its request."""
    parts = [record('warcinfo', None, b'software: test\r\n', 'application/warc-fields')]
    for url, status, headers, body in responses:
        request = record('request', url, b'GET / HTTP/1.1\r\nHost: example.org\r\n\r\n')
        parts += [request, response(url, body, headers, status)]
    return parts
