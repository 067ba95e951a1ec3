"""A rate limiter: requests to a host wait for their turn, and busy hosts are asked again later."""

import email.utils
import threading
import time
from collections.abc import Callable

from data_prep.scrape.address import host_of
from data_prep.scrape.network import TIMED_OUT, Failure, Network, Response

LONGEST_WAIT = 300.0  # s, between two pages of a host, or before a busy host is asked again

_BUSY = (429, 503)
_RETRIES = 2  # of a busy host
_FIRST_WAIT = 5.0  # s, if the host does not say how long to wait; doubled for the next retry


class RateLimitedNetwork:
    """Spaces out the requests to each host; threads may share it."""

    def __init__(self, network: Network):
        self._network = network
        self._turns: dict[str, _Turns] = {}
        self._lock = threading.Lock()

    def get(
        self,
        url: str,
        delay: float,
        seconds: float,
        max_bytes: int,
        wants_body: Callable[[int, dict[str, str]], bool],
        *,
        truncate: bool = False,
    ) -> tuple[Response, float]:
        """Sends a request, and repeats it while the host is busy.

        Args:
          url: as `web_address` returns it.
          delay: seconds before the next request to this host.
          seconds: limit for all attempts together, not counting the waits between them.
          max_bytes, wants_body, truncate: see `Network.get`.

        Returns:
          The last response, and the seconds that the attempts took.

        Raises:
          Failure: as `Network.get`.
        """
        with self._lock:
            turns = self._turns.setdefault(host_of(url), _Turns())
        spent = 0.0
        for attempt in range(_RETRIES + 1):
            turns.wait(delay)
            start = time.monotonic()
            if seconds <= spent:
                raise Failure(TIMED_OUT)
            response = self._network.get(
                url, seconds=seconds - spent, max_bytes=max_bytes, wants_body=wants_body, truncate=truncate
            )
            spent += time.monotonic() - start
            pause = _retry_after(response.headers, _FIRST_WAIT * 2**attempt)
            if response.status not in _BUSY or attempt == _RETRIES or pause > LONGEST_WAIT:
                return response, spent
            turns.postpone(pause)
        raise AssertionError('the last attempt returns')


class _Turns:
    """The time of the next request to a host."""

    def __init__(self):
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, delay: float) -> None:
        """Takes the next turn and waits for it; the one after it comes `delay` seconds later."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + delay
        time.sleep(max(0.0, turn - time.monotonic()))

    def postpone(self, seconds: float) -> None:
        """Delays the next turn by at least `seconds` from now."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _retry_after(headers: dict[str, str], default: float) -> float:
    """Seconds to wait, from a Retry-After header with seconds or a date."""
    value = headers.get('retry-after', '').strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return default
