"""The options of `scrape`."""

import dataclasses
import math
import pathlib
import re
from typing import Annotated

from tyro.conf import arg

from uwe_jax.io.errors import DataError

SOURCES = ('warc', 'html', 'urls', 'sitemap')
_CONTACT = re.compile(r'[!-~]+@[!-~]+\.[!-~]+|https?://[!-~]+')


@dataclasses.dataclass(frozen=True)
class Options:
    """Extracts the vacancies from web pages: WARC archives, saved HTML, lists of addresses and sitemaps.

    The same command resumes a killed run. OUTPUT.summary.json has the counts.
    """

    output: pathlib.Path
    """The JSONL file to make."""
    warc: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """WARC files."""
    html: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """Saved pages."""
    urls: Annotated[tuple[str, ...], arg(metavar='FILE')] = ()
    """A list of web addresses, one per line."""
    sitemap: Annotated[tuple[str, ...], arg(metavar='URL_OR_FILE')] = ()
    """A sitemap or sitemap index, possibly .gz."""
    contact: Annotated[str | None, arg(metavar='ADDRESS')] = None
    """Your mail address or web page, sent to every host; required for fetching."""
    rate: float = 1.0
    """The most pages per second that are requested from one host."""
    hosts_at_once: int = 16
    """How many hosts are crawled in parallel."""
    max_pages: int = 10_000
    """The most pages from one host."""
    max_bytes: int = 5_000_000
    """The largest page, decompressed."""
    max_seconds: float = 30.0
    """The most time for one page, redirects included."""
    max_redirects: int = 5
    """The most redirects to follow for one page."""
    allow_host: Annotated[tuple[str, ...], arg(metavar='ADDRESS:PORT')] = ()
    """A private address that may be requested nevertheless."""

    def check(self) -> None:
        """Checks the values before any work.

        Raises:
          DataError: one cannot be used.
        """
        if not any(getattr(self, name) for name in SOURCES):
            raise DataError('nothing to read: give --warc, --html, --urls or --sitemap')
        for name in ('rate', 'hosts_at_once', 'max_pages', 'max_bytes', 'max_seconds'):
            if not 0 < getattr(self, name) < math.inf:
                raise DataError(f'--{name}={getattr(self, name)}: expected a number above 0')
        if self.max_redirects < 0:
            raise DataError(f'--max_redirects={self.max_redirects}: expected 0 or more')
        if self.contact is not None and not _CONTACT.fullmatch(self.contact):
            raise DataError(f'--contact={self.contact!r}: expected a mail address, or a web page with http(s)://')
        if self.contact is None and (self.urls or self.sitemap):
            raise DataError('--urls and --sitemap fetch pages: give --contact, so that a host can reach you')
