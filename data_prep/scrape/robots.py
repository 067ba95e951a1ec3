"""What a site's robots.txt allows, and how fast.

As RFC 9309 has it: with status 2xx the file holds, its first 500 KiB; with 4xx there are no rules; with 429, 5xx, or no
answer at all nothing of the site is asked in this run. It holds for 24 hours. Of Crawl-delay, Request-rate and the
asked rate, the slowest counts; a site that wants more than 300 s between pages is left alone.
"""

import threading
import time
import urllib.parse
from typing import Protocol

from protego import Protego

from data_prep.scrape.address import web_address
from data_prep.scrape.network import PRIVATE, UNREACHABLE, Failure
from data_prep.scrape.turns import LONGEST_WAIT, Asker

PRODUCT = 'uwe_jax'  # what robots.txt calls us

ROBOTS = 'refused by robots.txt'
NO_ROBOTS = 'robots.txt without an answer'
TOO_SLOW = 'host wants more than 300 s between pages'

_ROBOTS_BYTES = 500 * 1024
_ROBOTS_AGE = 24 * 3600.0  # s


class RobotsStore(Protocol):
    """Keeps what robots.txt said: by origin, the time of asking (s since 1970) and its text."""

    def robots(self, origin: str) -> tuple[float, str] | None:
        """What is kept."""

    def keep_robots(self, origin: str, asked: float, text: str) -> None:
        """Keeps it."""


class Robots:
    """The rules of all sites; may be used by several threads.

    Args:
      asker: asks for them.
      seconds: the time that a robots.txt may take.
      rate: pages a second of one host, where the rules want no slower one.
      store: keeps them over the end of a run.
    """

    def __init__(self, asker: Asker, seconds: float, rate: float, store: RobotsStore):
        self._asker = asker
        self._seconds = seconds
        self._delay = 1 / rate
        self._store = store
        self._robots: dict[str, tuple[float, Protego | str]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def delay(self, url: str) -> float:
        """Returns the seconds between two pages of the host.

        Raises:
          Failure: the page must not be asked for.
        """
        parts = urllib.parse.urlsplit(url)
        rules = self._rules(f'{parts.scheme}://{parts.netloc}')
        if isinstance(rules, str):
            raise Failure(rules)
        if not rules.can_fetch(url, PRODUCT):
            raise Failure(ROBOTS)
        rate = rules.request_rate(PRODUCT)
        delay = max(self._delay, rules.crawl_delay(PRODUCT) or 0, rate.seconds / rate.requests if rate else 0)
        if delay > LONGEST_WAIT:
            raise Failure(TOO_SLOW)
        return delay

    def _rules(self, origin: str) -> Protego | str:
        """A site's robots.txt, asked for once a day; or why nothing of the site may be asked."""
        with self._lock:
            lock = self._locks.setdefault(origin, threading.Lock())
        with lock:
            known = self._robots.get(origin)
            if known is None and (kept := self._store.robots(origin)):
                known = kept[0], Protego.parse(kept[1])
            if known is None or time.time() - known[0] > _ROBOTS_AGE:
                asked = time.time()
                try:
                    text = self._robots_text(f'{origin}/robots.txt')
                except Failure as failure:
                    known = asked, failure.kind if failure.kind in (PRIVATE, UNREACHABLE) else NO_ROBOTS
                else:
                    self._store.keep_robots(origin, asked, text)
                    known = asked, Protego.parse(text)
            self._robots[origin] = known
            return known[1]

    def _robots_text(self, url: str) -> str:
        """What a site's robots.txt says; nothing where there is none.

        Raises:
          Failure: that cannot be known.
        """
        for _ in range(6):  # RFC 9309: at least five redirects
            response, _ = self._asker.ask(
                url, self._delay, self._seconds, _ROBOTS_BYTES, lambda status, _: status < 300, cut=True
            )
            if response.status == 429 or response.status >= 500:
                raise Failure(NO_ROBOTS)
            if response.status < 300:
                return response.body.decode('utf-8-sig', 'replace')
            following = web_address(urllib.parse.urljoin(url, response.headers.get('location', '')))
            if response.status >= 400 or following is None:
                return ''
            url = following
        return ''  # more redirects than that: as if there were none
