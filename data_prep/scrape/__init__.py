"""From WARC archives, saved HTML, lists of addresses and sitemaps to the vacancies in them, as JSON lines."""

import argparse
import pathlib
from typing import Any

from uwe_jax.io.errors import DataError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    several: dict[str, Any] = {'action': 'append', 'default': []}
    parser.add_argument('--output', type=pathlib.Path, required=True, help='the JSONL file to make')
    parser.add_argument('--warc', metavar='GLOB', **several, help='WARC files; may be given several times')
    parser.add_argument('--html', metavar='GLOB', **several, help='saved pages; may be given several times')
    parser.add_argument('--urls', metavar='FILE', **several, help='a list of web addresses, one a line')
    parser.add_argument('--sitemap', metavar='URL_OR_FILE', **several, help='a sitemap or sitemap index, also .gz')
    parser.add_argument('--contact', help='your mail address or web page, sent to every host; needed to fetch')
    parser.add_argument('--rate', type=float, default=1.0, help='pages a second of one host, at most')
    parser.add_argument('--hosts_at_once', type=int, default=16, help='hosts asked at the same time')
    parser.add_argument('--max_pages', type=int, default=10_000, help='pages of one host')
    parser.add_argument('--max_bytes', type=int, default=5_000_000, help='of a page, decompressed')
    parser.add_argument('--max_seconds', type=float, default=30.0, help='for a page, with its redirects')
    parser.add_argument('--max_redirects', type=int, default=5, help='of a page')
    parser.add_argument(
        '--allow_host', metavar='ADDRESS:PORT', **several, help='a private address that may be asked nevertheless'
    )


def run(arguments: argparse.Namespace, command: str) -> None:
    """Makes the file, and beside it NAME.summary.json with the counts.

    What a killed run has read and fetched lies in NAME.partial; the same command goes on from there.

    Args:
      arguments: of `add_flags`.
      command: what the user typed, for the summary.

    Raises:
      DataError: a flag or an input cannot be used, the output cannot be written, or a library is not installed.
    """
    try:
        from data_prep.scrape.recipe import scrape
    except ModuleNotFoundError as error:
        raise DataError(f"scrape needs {error.name}: pip install -c constraints.txt -e '.[scrape]'") from error
    scrape(arguments, command)
