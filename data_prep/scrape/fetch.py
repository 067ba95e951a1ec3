"""The polite client: asks only what robots.txt allows, no host faster than its rate, and follows a few redirects."""

import dataclasses
import urllib.parse

from data_prep.scrape.address import web_address
from data_prep.scrape.network import BROKEN, TIMED_OUT, UNREACHABLE, Failure, Network
from data_prep.scrape.robots import NO_ROBOTS, Robots, RobotsStore
from data_prep.scrape.turns import Asker

ANSWERED = 'answered'
REDIRECT_LOOP = 'redirect loop'
TOO_MANY_REDIRECTS = 'too many redirects'
BAD_REDIRECT = 'redirect to no web address'
NOT_HTML = 'not HTML'

_SILENT = (TIMED_OUT, UNREACHABLE, BROKEN, NO_ROBOTS)  # nothing was heard: a later run may ask again
_HTML = ('', 'text/html', 'application/xhtml+xml')


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one page may cost: seconds on the network, bytes of its body as sent and as decompressed, redirects."""

    max_seconds: float
    max_bytes: int
    max_redirects: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of asking for a page.

    Attributes:
      outcome: `ANSWERED`, or why there is no page.
      heard: whether a host said so, or this project's own rules; False where nothing came back.
      url: of the last address asked.
      body, content_type, language: of an answered page.
    """

    outcome: str
    heard: bool
    url: str
    body: bytes = b''
    content_type: str | None = None
    language: str | None = None


class Client:
    """Asks for pages; may be used by several threads.

    Args:
      network: sends the requests.
      limits: of a page.
      rate: pages a second of one host.
      store: of robots.txt.
    """

    def __init__(self, network: Network, limits: Limits, rate: float, store: RobotsStore):
        self._limits = limits
        self._asker = Asker(network)
        self._robots = Robots(self._asker, limits.max_seconds, rate, store)

    def get(self, url: str, max_bytes: int | None = None, *, html: bool = True) -> Answer:
        """Asks for one page, and the pages that it redirects to; nothing is raised.

        Args:
          url: as `web_address` returns it.
          max_bytes: another limit than a page's.
          html: whether any other content type is refused.
        """

        def wanted(status: int, headers: dict[str, str]) -> bool:
            return status == 200 and (not html or _media_type(headers) in _HTML)

        seconds = self._limits.max_seconds
        seen = [url]
        while True:
            try:
                delay = self._robots.delay(url)
                response, spent = self._asker.ask(url, delay, seconds, max_bytes or self._limits.max_bytes, wanted)
            except Failure as failure:
                return Answer(failure.kind, failure.kind not in _SILENT, url)
            seconds -= spent
            if response.status not in (301, 302, 303, 307, 308):
                break
            following = web_address(urllib.parse.urljoin(url, response.headers.get('location', '')))
            if following is None or 'location' not in response.headers:
                return Answer(BAD_REDIRECT, True, url)
            if following in seen:
                return Answer(REDIRECT_LOOP, True, url)
            if len(seen) > self._limits.max_redirects:
                return Answer(TOO_MANY_REDIRECTS, True, url)
            url = following
            seen.append(url)
        if response.status != 200:
            return Answer(f'status {response.status}', True, url)
        if not wanted(200, response.headers):
            return Answer(NOT_HTML, True, url)
        content_type, language = response.headers.get('content-type'), response.headers.get('content-language')
        return Answer(ANSWERED, True, url, response.body, content_type, language)


def _media_type(headers: dict[str, str]) -> str:
    return headers.get('content-type', '').split(';')[0].strip().lower()
