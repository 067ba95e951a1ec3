"""From WARC archives, saved HTML, lists of addresses and sitemaps to the vacancies in them, as JSON lines."""

import dataclasses
import pathlib
from typing import Annotated

from tyro.conf import arg

from uwe_jax.io.errors import DataError


@dataclasses.dataclass(frozen=True)
class Options:
    """Web pages (WARC, HTML, addresses, sitemaps) to the vacancies in them."""

    output: pathlib.Path
    """The JSONL file to make."""
    warc: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """WARC files."""
    html: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """Saved pages."""
    urls: Annotated[tuple[str, ...], arg(metavar='FILE')] = ()
    """A list of web addresses, one per line."""
    sitemap: Annotated[tuple[str, ...], arg(metavar='URL_OR_FILE')] = ()
    """A sitemap or sitemap index, also .gz."""
    contact: Annotated[str | None, arg(metavar='ADDRESS')] = None
    """Your mail address or web page, sent to every host; needed to fetch."""
    rate: float = 1.0
    """Pages per second and host, at most."""
    hosts_at_once: int = 16
    """Hosts asked at the same time."""
    max_pages: int = 10_000
    """Pages of one host."""
    max_bytes: int = 5_000_000
    """Of a page, decompressed."""
    max_seconds: float = 30.0
    """For a page, with its redirects."""
    max_redirects: int = 5
    """Of a page."""
    allow_host: Annotated[tuple[str, ...], arg(metavar='ADDRESS:PORT')] = ()
    """A private address that may be asked nevertheless."""


def run(options: Options, command: str) -> None:
    """Makes the file, and beside it NAME.summary.json with the counts.

    What a killed run has read and fetched lies in NAME.partial; the same command goes on from there.

    Args:
      options: what to read and how to fetch.
      command: what the user typed, for the summary.

    Raises:
      DataError: a flag or an input cannot be used, the output cannot be written, or a library is not installed.
    """
    try:
        from data_prep.scrape.recipe import scrape
    except ModuleNotFoundError as error:
        raise DataError(f"scrape needs {error.name}: pip install -c constraints.txt -e '.[scrape]'") from error
    scrape(options, command)
