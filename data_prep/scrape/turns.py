"""Requests that wait for their host's turn, and come again when a busy host says."""

import email.utils
import threading
import time
from collections.abc import Callable

from data_prep.scrape.address import host_of
from data_prep.scrape.network import TIMED_OUT, Failure, Network, Response

LONGEST_WAIT = 300.0  # s, between two pages of a host, or before a busy one is asked again

_BUSY = (429, 503)
_AGAIN = 2  # how often a busy host is asked again
_FIRST_WAIT = 5.0  # s, where it does not say when; then twice as long


class Asker:
    """Sends requests, to each host one at its turn; may be used by several threads.

    Args:
      network: sends them.
    """

    def __init__(self, network: Network):
        self._network = network
        self._turns: dict[str, _Turns] = {}
        self._lock = threading.Lock()

    def ask(
        self,
        url: str,
        delay: float,
        seconds: float,
        max_bytes: int,
        wanted: Callable[[int, dict[str, str]], bool],
        *,
        cut: bool = False,
    ) -> tuple[Response, float]:
        """Sends a request, and again where the host is busy.

        Args:
          url: as `web_address` returns it.
          delay: seconds after which the host may be asked next.
          seconds, max_bytes, wanted, cut: of `Network.get`; the seconds are for all requests, waiting not counted.

        Returns:
          The last response, and the seconds that the requests took.

        Raises:
          Failure: as `Network.get`.
        """
        with self._lock:
            turns = self._turns.setdefault(host_of(url), _Turns())
        spent = 0.0
        for again in range(_AGAIN + 1):
            turns.wait(delay)
            start = time.monotonic()
            if seconds <= spent:
                raise Failure(TIMED_OUT)
            response = self._network.get(url, seconds=seconds - spent, max_bytes=max_bytes, wanted=wanted, cut=cut)
            spent += time.monotonic() - start
            pause = _retry_after(response.headers, _FIRST_WAIT * 2**again)
            if response.status not in _BUSY or again == _AGAIN or pause > LONGEST_WAIT:
                return response, spent
            turns.postpone(pause)
        raise AssertionError('the last round returns')


class _Turns:
    """When a host may be asked next."""

    def __init__(self):
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, delay: float) -> None:
        """Takes the next turn, `delay` seconds after the one before, and waits for it."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + delay
        time.sleep(max(0.0, turn - time.monotonic()))

    def postpone(self, seconds: float) -> None:
        """No turn before that."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _retry_after(headers: dict[str, str], otherwise: float) -> float:
    """Seconds to wait, from a Retry-After header of seconds or of a date."""
    value = headers.get('retry-after', '').strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return otherwise
