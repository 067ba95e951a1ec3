"""What a site's robots.txt allows, and how fast.

By RFC 9309: after status 2xx the first 500 KiB of the file apply; after 4xx there are no rules; after 429, 5xx, or
without a response, nothing from the site is requested in this run. Rules are valid for 24 hours. Of Crawl-delay,
Request-rate and our own rate, the slowest applies; a site that asks for more than 300 s between pages is not crawled.
"""

import threading
import time
import urllib.parse

from protego import Protego

from data_prep.scrape.address import web_address
from data_prep.scrape.journal import ROBOTS, CrawlJournal
from data_prep.scrape.network import PRIVATE, UNREACHABLE, Failure
from data_prep.scrape.rate_limit import LONGEST_WAIT, RateLimitedNetwork

PRODUCT = 'uwe_jax'  # our name in robots.txt

REFUSED = 'refused by robots.txt'
NO_ROBOTS = 'no answer for robots.txt'
TOO_SLOW = 'host wants more than 300 s between pages'

_ROBOTS_BYTES = 500 * 1024
_ROBOTS_AGE = 24 * 3600.0  # s


class Robots:
    """The rules of all sites; threads may share it.

    Args:
      network: fetches the rules.
      seconds: the most time for one robots.txt.
      rate: pages per second from one host, unless its rules ask for a lower rate.
      journal: keeps them for a resumed run.
    """

    def __init__(self, network: RateLimitedNetwork, seconds: float, rate: float, journal: CrawlJournal):
        self._network = network
        self._seconds = seconds
        self._delay = 1 / rate
        self._journal = journal
        self._rules: dict[str, tuple[float, Protego | str]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def delay(self, url: str) -> float:
        """Returns the seconds between two pages of the host.

        Raises:
          Failure: the page must not be requested.
        """
        parts = urllib.parse.urlsplit(url)
        rules = self._rules_of(f'{parts.scheme}://{parts.netloc}')
        if isinstance(rules, str):
            raise Failure(rules)
        if not rules.can_fetch(url, PRODUCT):
            raise Failure(REFUSED)
        rate = rules.request_rate(PRODUCT)
        delay = max(self._delay, rules.crawl_delay(PRODUCT) or 0, rate.seconds / rate.requests if rate else 0)
        if delay > LONGEST_WAIT:
            raise Failure(TOO_SLOW)
        return delay

    def _rules_of(self, origin: str) -> Protego | str:
        """The rules of a site, fetched at most once a day; or the reason why none of its pages may be requested."""
        with self._lock:
            lock = self._locks.setdefault(origin, threading.Lock())
        with lock:
            known = self._rules.get(origin)
            if known is None and (entry := self._journal.get(ROBOTS, origin)):
                known = entry['asked'], Protego.parse(entry['text'])
            if known is None or time.time() - known[0] > _ROBOTS_AGE:
                known = time.time(), self._fetch(origin)
            self._rules[origin] = known
            return known[1]

    def _fetch(self, origin: str) -> Protego | str:
        asked = time.time()  # s since 1970
        try:
            text = self._text(f'{origin}/robots.txt')
        except Failure as failure:
            return failure.kind if failure.kind in (PRIVATE, UNREACHABLE) else NO_ROBOTS
        self._journal.add(ROBOTS, {ROBOTS: origin, 'asked': asked, 'text': text})
        return Protego.parse(text)

    def _text(self, url: str) -> str:
        """The text of a robots.txt; empty if there is none.

        Raises:
          Failure: it is unknown what the rules are.
        """
        for _ in range(6):  # RFC 9309: at least five redirects
            response, _ = self._network.get(
                url, self._delay, self._seconds, _ROBOTS_BYTES, lambda status, _: status < 300, truncate=True
            )
            if response.status == 429 or response.status >= 500:
                raise Failure(NO_ROBOTS)
            if response.status < 300:
                return response.body.decode('utf-8-sig', 'replace')
            target = web_address(urllib.parse.urljoin(url, response.headers.get('location', '')))
            if response.status >= 400 or target is None:
                return ''
            url = target
        return ''  # after too many redirects, there are no rules
