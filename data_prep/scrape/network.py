"""One HTTP request that cannot be led to a private address, take longer than its time, or more than its bytes."""

import dataclasses
import ipaddress
import queue
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator

import httpcore2

TIMED_OUT = 'timed out'
TOO_LARGE = 'too large'
PRIVATE = 'private address'
UNREACHABLE = 'cannot be reached'
BROKEN = 'broken answer'

_NAT64 = ipaddress.ip_network('64:ff9b::/96')  # an IPv4 address in its last 32 bits
_GZIP = 31  # zlib's word for that format
_CONNECT = 10.0  # s, for one of a host's addresses, so that a dead one leaves time for the next

Allowed = frozenset[tuple[str, int]]  # addresses and ports that may be asked though they are private


class Failure(Exception):  # noqa: N818 (an outcome that is counted, not an error of the program)
    """There is no usable answer; `kind` is one of the names above."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Response:
    """An answer.

    Attributes:
      status: of HTTP.
      headers: names in lower case; the first of several.
      body: decoded; empty where it was not wanted.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Network:
    """Sends GET requests.

    Environment variables for proxies are not followed: behind a proxy nobody could check the address.

    Args:
      agent: the User-Agent header.
      allowed: addresses and ports that may be asked though they are private.
    """

    def __init__(self, agent: str, allowed: Allowed = frozenset()):
        accepted = 'text/html, application/xhtml+xml, */*;q=0.5'
        self._headers = [('User-Agent', agent), ('Accept', accepted), ('Accept-Encoding', 'gzip')]
        self._allowed = allowed
        self._tls: ssl.SSLContext = httpcore2.default_ssl_context()

    def get(
        self,
        url: str,
        *,
        seconds: float,
        max_bytes: int,
        wanted: Callable[[int, dict[str, str]], bool],
        cut: bool = False,
    ) -> Response:
        """Asks for one address and follows nothing.

        Args:
          url: http or https, ASCII.
          seconds: the time for all of it, from the look-up of the name to the last byte.
          max_bytes: of the body, both as sent and as decompressed.
          wanted: told status and headers, says whether the body is to be read.
          cut: whether a larger body is cut there, not refused.

        Raises:
          Failure: no answer in time, too large, a private address, no connection, or not HTTP.
        """
        backend = _Backend(time.monotonic() + seconds, self._allowed)
        try:
            # A pool of its own for each request, so that its deadline is the connection's.
            with (
                httpcore2.ConnectionPool(self._tls, network_backend=backend) as pool,
                pool.stream('GET', url, headers=self._headers) as response,
            ):
                headers: dict[str, str] = {}
                for name, value in response.headers:
                    headers.setdefault(name.decode('latin-1').lower(), value.decode('latin-1'))
                body = b''
                if wanted(response.status, headers):
                    body = read_body(response.iter_stream(), headers.get('content-encoding', ''), max_bytes, cut=cut)
                return Response(response.status, headers, body)
        except httpcore2.TimeoutException as error:
            raise Failure(TIMED_OUT) from error
        except httpcore2.NetworkError as error:
            raise Failure(UNREACHABLE) from error
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise Failure(BROKEN) from error


def read_body(chunks: Iterable[bytes], encoding: str, max_bytes: int, *, cut: bool = False) -> bytes:
    """Joins a body's chunks, and decompresses them no further than they may be large.

    Raises:
      Failure: too large, or not in the encoding that it is said to be.
    """
    encoding = encoding.strip().lower()
    if encoding in ('gzip', 'x-gzip'):
        chunks = inflated(_bounded(chunks, max_bytes), max_bytes + 1)
    elif encoding not in ('', 'identity'):
        raise Failure(BROKEN)  # nothing else was asked for
    body = bytearray()
    try:
        for chunk in _bounded(chunks, max_bytes):
            body += chunk
    except Failure as failure:
        if not (cut and failure.kind == TOO_LARGE):
            raise
    return bytes(body)


def _bounded(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    left = max_bytes
    for chunk in chunks:
        yield chunk[:left]
        left -= len(chunk)
        if left < 0:
            raise Failure(TOO_LARGE)


def inflated(chunks: Iterable[bytes], portion: int) -> Iterator[bytes]:
    """Decompresses gzip, of one member or several, in portions of so many bytes.

    Raises:
      Failure: not gzip, or it ends early; all before that was given.
    """
    inflate = zlib.decompressobj(_GZIP)
    begun = False
    try:
        for chunk in chunks:
            while chunk:
                begun = True
                if inflate.eof:
                    if not chunk.startswith(b'\x1f'):
                        return  # padding
                    inflate = zlib.decompressobj(_GZIP)
                yield inflate.decompress(chunk, portion)
                chunk = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
    except zlib.error as error:
        raise Failure(BROKEN) from error
    if begun and not inflate.eof:
        raise Failure(BROKEN)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also when it stands inside an IPv6 address."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


class _Backend(httpcore2.NetworkBackend):
    """Connects to the very addresses that were checked, so that a name that is looked up again changes nothing."""

    def __init__(self, deadline: float, allowed: Allowed):
        self._deadline = deadline
        self._allowed = allowed

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        found = _addresses(host, port, self._deadline)
        permitted = [a for a in found if is_public(a) or (a, port) in self._allowed]
        if not permitted:
            raise Failure(PRIVATE)
        error: Exception = httpcore2.ConnectError(host)
        for address in permitted:
            try:
                seconds = min(_CONNECT, _left(self._deadline))
                stream = httpcore2.SyncBackend().connect_tcp(address, port, seconds, None, socket_options)
                return _Stream(stream, self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as failed:
                error = failed
        raise error


class _Stream(httpcore2.NetworkStream):
    """Gives each operation the time that is left of the whole, so that no drip of bytes outlasts it."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float):
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes, timeout=None):
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer, timeout=None):
        self._stream.write(buffer, _left(self._deadline))

    def close(self):
        self._stream.close()

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline)), self._deadline)

    def get_extra_info(self, info):
        return self._stream.get_extra_info(info)


def _addresses(host: str, port: int, deadline: float) -> list[str]:
    """Looks a name up; in a thread, because the look-up itself knows no time limit."""
    answer: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up():
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.put(list(dict.fromkeys(str(address[0]) for *_, address in found)))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        found = answer.get(timeout=_left(deadline))
    except queue.Empty as error:
        raise Failure(TIMED_OUT) from error
    if isinstance(found, Exception):
        raise Failure(UNREACHABLE) from found
    return found


def _left(deadline: float) -> float:
    """The seconds until then.

    Raises:
      httpcore2.ReadTimeout: there are none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left
