"""A polite web client: it obeys robots.txt, keeps to a rate limit for each host, and follows a few redirects."""

import dataclasses
import urllib.parse

from data_prep.scrape.address import web_address
from data_prep.scrape.journal import CrawlJournal
from data_prep.scrape.network import BROKEN, TIMED_OUT, UNREACHABLE, Failure, Network
from data_prep.scrape.rate_limit import RateLimitedNetwork
from data_prep.scrape.robots import NO_ROBOTS, Robots

ANSWERED = 'answered'
REDIRECT_LOOP = 'redirect loop'
TOO_MANY_REDIRECTS = 'too many redirects'
BAD_REDIRECT = 'redirect to something that is not a web address'
NOT_HTML = 'not HTML'

_SILENT = (TIMED_OUT, UNREACHABLE, BROKEN, NO_ROBOTS)  # the host did not respond: a later run may ask again
_HTML = ('', 'text/html', 'application/xhtml+xml')


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on fetching one page.

    Attributes:
      max_seconds: time on the network.
      max_bytes: of the body, both as sent and decompressed.
      max_redirects: how many are followed.
    """

    max_seconds: float
    max_bytes: int
    max_redirects: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """The outcome of a request for a page.

    Attributes:
      outcome: `ANSWERED`, or why there is no page.
      final: whether the host or our own rules decided the outcome. If False, the host did not respond, and a later run
        asks again.
      url: the last address requested.
      body, content_type, language: of an answered page.
    """

    outcome: str
    final: bool
    url: str
    body: bytes = b''
    content_type: str | None = None
    language: str | None = None


class Client:
    """Fetches pages; threads may share it.

    Args:
      network: sends the requests.
      limits: for each page.
      rate: the most pages per second from one host.
      journal: remembers each robots.txt.
    """

    def __init__(self, network: Network, limits: Limits, rate: float, journal: CrawlJournal):
        self._limits = limits
        self._network = RateLimitedNetwork(network)
        self._robots = Robots(self._network, limits.max_seconds, rate, journal)

    def get(self, url: str, max_bytes: int | None = None, *, html: bool = True) -> Answer:
        """Fetches one page, following its redirects. A failure is returned as an outcome, never raised.

        Args:
          url: as `web_address` returns it.
          max_bytes: overrides the limit.
          html: whether other content types are refused.
        """

        def wants_body(status: int, headers: dict[str, str]) -> bool:
            return status == 200 and (not html or _media_type(headers) in _HTML)

        seconds = self._limits.max_seconds
        visited = [url]
        while True:
            try:
                delay = self._robots.delay(url)
                response, spent = self._network.get(
                    url, delay, seconds, max_bytes or self._limits.max_bytes, wants_body
                )
            except Failure as failure:
                return Answer(failure.kind, failure.kind not in _SILENT, url)
            seconds -= spent
            if response.status not in (301, 302, 303, 307, 308):
                break
            target = web_address(urllib.parse.urljoin(url, response.headers.get('location', '')))
            if target is None or 'location' not in response.headers:
                return Answer(BAD_REDIRECT, True, url)
            if target in visited:
                return Answer(REDIRECT_LOOP, True, url)
            if len(visited) > self._limits.max_redirects:
                return Answer(TOO_MANY_REDIRECTS, True, url)
            url = target
            visited.append(url)
        if response.status != 200:
            return Answer(f'status {response.status}', True, url)
        if not wants_body(200, response.headers):
            return Answer(NOT_HTML, True, url)
        content_type, language = response.headers.get('content-type'), response.headers.get('content-language')
        return Answer(ANSWERED, True, url, response.body, content_type, language)


def _media_type(headers: dict[str, str]) -> str:
    return headers.get('content-type', '').split(';')[0].strip().lower()
