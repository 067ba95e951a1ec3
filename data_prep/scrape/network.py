"""HTTP requests that never reach private addresses and are bounded in time and bytes."""

import dataclasses
import ipaddress
import queue
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterable

import httpcore2

TIMED_OUT = 'timed out'
TOO_LARGE = 'too large'
PRIVATE = 'private address'
UNREACHABLE = 'cannot be reached'
BROKEN = 'broken answer'

_NAT64 = ipaddress.ip_network('64:ff9b::/96')  # an IPv4 address in its last 32 bits
_GZIP = 31  # zlib's wbits for gzip
_CONNECT = 10.0  # s, per address of a host, so that a dead one leaves time for the next

Allowed = frozenset[tuple[str, int]]  # private addresses and ports that may be requested nevertheless


class Failure(Exception):  # noqa: N818 (an outcome that is counted, not an error of the program)
    """There is no usable response; `kind` says why."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Response:
    """A response.

    Attributes:
      status: the HTTP status.
      headers: by lower-case name; the first one of each name.
      body: decompressed; empty if it was not wanted.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Network:
    """Sends GET requests.

    Proxies in environment variables are ignored: behind a proxy, addresses could not be checked.

    Args:
      agent: the User-Agent header.
      allowed: private addresses and ports that may be requested nevertheless.
    """

    def __init__(self, agent: str, allowed: Allowed):
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
        wants_body: Callable[[int, dict[str, str]], bool],
        truncate: bool = False,
    ) -> Response:
        """Sends one request; redirects are not followed.

        Args:
          url: http or https, ASCII.
          seconds: the time from the look-up of the name to the last byte.
          max_bytes: of the body, both as sent and decompressed.
          wants_body: says by status and headers whether the body is read.
          truncate: whether a larger body is truncated rather than refused.

        Raises:
          Failure: no response in time, too large, a private address, no connection, or not HTTP.
        """
        backend = _Backend(time.monotonic() + seconds, self._allowed)
        try:
            # One pool per request, because the deadline belongs to the connection.
            with (
                httpcore2.ConnectionPool(self._tls, network_backend=backend) as pool,
                pool.stream('GET', url, headers=self._headers) as response,
            ):
                headers: dict[str, str] = {}
                for name, value in response.headers:
                    headers.setdefault(name.decode('latin-1').lower(), value.decode('latin-1'))
                body = b''
                if wants_body(response.status, headers):
                    body = read_body(
                        response.iter_stream(), headers.get('content-encoding', ''), max_bytes, truncate=truncate
                    )
                return Response(response.status, headers, body)
        except httpcore2.TimeoutException as error:
            raise Failure(TIMED_OUT) from error
        except httpcore2.NetworkError as error:
            raise Failure(UNREACHABLE) from error
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise Failure(BROKEN) from error


def read_body(chunks: Iterable[bytes], encoding: str, max_bytes: int, *, truncate: bool = False) -> bytes:
    """Joins the chunks of a body, and decompresses gzip with one or more members, up to the largest size.

    Raises:
      Failure: it is too large, or not encoded as stated.
    """
    encoding = encoding.strip().lower()
    if encoding not in ('', 'identity', 'gzip', 'x-gzip'):
        raise Failure(BROKEN)  # we accept nothing else
    sent, body = 0, bytearray()
    inflate = None
    try:
        for chunk in chunks:
            sent += len(chunk)
            if encoding in ('', 'identity'):
                body += chunk
                chunk = b''
            while chunk and len(body) <= max_bytes:
                if inflate is None or inflate.eof:
                    if inflate and not chunk.startswith(b'\x1f'):
                        break  # padding
                    inflate = zlib.decompressobj(_GZIP)
                body += inflate.decompress(chunk, max_bytes + 1 - len(body))
                chunk = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            if max(sent, len(body)) > max_bytes:
                if truncate:
                    return bytes(body[:max_bytes])
                raise Failure(TOO_LARGE)
    except zlib.error as error:
        raise Failure(BROKEN) from error
    if inflate and not inflate.eof:
        raise Failure(BROKEN)
    return bytes(body)


def is_public(address: str) -> bool:
    """Whether an IP address, or the IPv4 address inside an IPv6 address, belongs to the public internet."""
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
    """Connects to the very addresses that were checked, so that another look-up cannot change them (DNS rebinding)."""

    def __init__(self, deadline: float, allowed: Allowed):
        self._deadline = deadline
        self._allowed = allowed

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        addresses = _addresses(host, port, self._deadline)
        permitted = [a for a in addresses if is_public(a) or (a, port) in self._allowed]
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
    """Limits each operation to the time that is left, so that a drip of bytes cannot outlast the deadline."""

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
    """Looks a name up, in a thread because the look-up itself has no timeout."""
    answer: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up():
        try:
            results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.put(list(dict.fromkeys(str(address[0]) for *_, address in results)))
        except (OSError, UnicodeError) as error:
            answer.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        addresses = answer.get(timeout=_left(deadline))
    except queue.Empty as error:
        raise Failure(TIMED_OUT) from error
    if isinstance(addresses, Exception):
        raise Failure(UNREACHABLE) from addresses
    return addresses


def _left(deadline: float) -> float:
    """The seconds until the deadline.

    Raises:
      httpcore2.ReadTimeout: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout
    return left
