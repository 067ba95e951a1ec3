"""Reading a web archive, against warcio, which reads the same pages.

    pip install warcio==1.8.1
    python -m tests.benchmarks.archives [--pages=20000] [--rounds=3]

The archive is made first: pages of 10 to 60 kB of generated words, half of them in gzip, each answer after its request
and before its metadata, each record as a member of gzip. Reader and peer read it in turn, each time in a process of its
own: all pages with status 200, decoded. A row per reader: the median seconds, CPU seconds, pages per second and peak
memory; then the ratio of the speeds. The last row, the same pages four times, shows whether memory grows.
"""

import concurrent.futures
import dataclasses
import gzip
import multiprocessing
import pathlib
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from warcio.archiveiterator import ArchiveIterator

from data_prep.scrape.archives import warc_pages
from tests.data_prep import warc
from tests.data_prep.web import HTML, page, posting
from uwe_jax.io import console
from uwe_jax.io.repairs import Repairs

MAX_BYTES = 5_000_000


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures how fast a web archive is read, against warcio."""

    pages: int = 20_000
    """How many pages the archive has."""
    rounds: int = 3
    """How often each reader reads it."""


def main(options: Options) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / 'a.warc.gz'
        write(path, options.pages)
        print(f'{options.pages} pages, {path.stat().st_size / 1e6:.0f} MB')
        print(f'{"":12} {"s":>6} {"CPU s":>6} {"pages/s":>8} {"MiB":>5}')
        took = {}
        for reader in (with_fastwarc, with_warcio) * options.rounds:
            took.setdefault(reader, []).append(measured(reader, path, options.pages))
        for reader, rounds in took.items():
            print_row(reader.__name__[5:], rounds, options.pages)
        ours, peer = (statistics.median(one.seconds for one in rounds) for rounds in took.values())
        print(f'speed of ours over warcio: {peer / ours:.2f}')
        longer = path.with_name('longer.warc.gz')
        with open(longer, 'wb') as file:
            for _ in range(4):
                with open(path, 'rb') as part:
                    shutil.copyfileobj(part, file)
        print_row('four times', [measured(with_fastwarc, longer, 4 * options.pages)], 4 * options.pages)


def write(path: pathlib.Path, pages: int) -> None:
    """Writes the archive."""
    rng = random.Random(0)
    words = [rng.randbytes(rng.randint(1, 5)).hex() for _ in range(5000)]
    prose = ' '.join(rng.choices(words, k=100_000))
    with open(path, 'wb') as file:
        for number in range(pages):
            url = f'https://a.example/{number}'
            start, length = rng.randrange(len(prose) // 2), rng.randint(10_000, 60_000)
            text = page(posting(f'Job {number}'), body=prose[start : start + length]).encode()
            encoding = {'Content-Encoding': 'gzip'} if number % 2 else {}
            for record in (
                warc.record('request', url, b'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n'),
                warc.response(url, gzip.compress(text, 6) if encoding else text, HTML | encoding),
                warc.record('metadata', url, b'fetchTimeMs: 100\r\n', 'application/warc-fields'),
            ):
                file.write(gzip.compress(record, 6))


def with_fastwarc(path: pathlib.Path) -> int:
    """Our reader; returns the number of pages."""
    return sum(1 for _ in warc_pages(path, MAX_BYTES, Repairs(), lambda _: None))


def with_warcio(path: pathlib.Path) -> int:
    """The peer, without any check."""
    pages = 0
    with open(path, 'rb') as file:
        for record in ArchiveIterator(file):
            if record.rec_type == 'response' and record.http_headers.get_statuscode() == '200':
                record.content_stream().read()
                pages += 1
    return pages


@dataclasses.dataclass(frozen=True)
class Measured:
    """Wall-clock and CPU seconds, and peak memory."""

    seconds: float
    cpu: float
    mebibytes: float


def measured(reader: Callable[[pathlib.Path], int], path: pathlib.Path, pages: int) -> Measured:
    """Reads the archive in a new process.

    Raises:
      ValueError: not all pages were read.
    """
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        count, result = pool.submit(measure_here, reader, path).result()
    if count != pages:
        raise ValueError(f'{reader.__name__}: {count} of {pages} pages were read')
    return result


def measure_here(reader: Callable[[pathlib.Path], int], path: pathlib.Path) -> tuple[int, Measured]:
    """Measures in this process."""
    start = time.perf_counter(), time.process_time()
    count = reader(path)
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    return count, Measured(seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def print_row(name: str, rounds: list[Measured], pages: int) -> None:
    """Prints medians."""
    seconds, cpu, memory = (statistics.median(one) for one in zip(*map(dataclasses.astuple, rounds), strict=True))
    print(f'{name:12} {seconds:>6.1f} {cpu:>6.1f} {pages / seconds:>8.0f} {memory:>5.0f}', flush=True)


if __name__ == '__main__':
    sys.exit(console.command(Options, main))
