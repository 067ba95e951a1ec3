"""Damages web archives at random, and checks that every page outside of the damage is read.

    python -m tests.data_prep.fuzz_archives [--archives=10000] [--seed=0]

An archive has up to eight pages of a few bytes to 300 kB, in bodies of every coding, as plain records or members of
gzip or zstd. One to three of its members are damaged: bits are flipped, bytes are cut out, inserted, overwritten or
repeated, the length in the header lies, or the member is replaced by something else. The postings of all the others
must be found, each once and in order; the first that is not ends the program.
"""

import dataclasses
import gzip
import pathlib
import random
import re
import sys
import tempfile
import zlib
from collections import Counter

from data_prep.scrape.archives import DAMAGED, warc_pages
from data_prep.scrape.postings import vacancies
from tests.data_prep import warc
from tests.data_prep.web import HTML, page, posting
from uwe_jax.io import console
from uwe_jax.io.errors import DataError
from uwe_jax.io.repairs import Repairs

CODINGS = {'identity': bytes, 'gzip': gzip.compress, 'br': warc.brotli, 'zstd': warc.zstd, 'deflate': zlib.compress}


@dataclasses.dataclass(frozen=True)
class Options:
    """Damages web archives at random, and checks that every page outside of the damage is read."""

    archives: int = 10_000
    """How many to damage."""
    seed: int = 0
    """Seed of all that is random."""


def fuzz(options: Options) -> None:
    """Prints how many archives and pages were read."""
    rng = random.Random(options.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / 'a.warc'
        for number in range(options.archives):
            kind = rng.choice(list(warc.MEMBERS))
            members = [warc.MEMBERS[kind](record(n, rng)) for n in range(rng.randint(2, 8))]
            damaged = set(rng.sample(range(len(members)), min(len(members), rng.randint(1, 3))))
            for n in damaged:
                members[n] = damage(members[n], rng)
            path.write_bytes(b''.join(members))
            repairs = Repairs()
            try:
                urls = [(page.url, titles(page)) for page in warc_pages(path, 1_000_000, repairs, lambda _: None)]
            except DataError:
                urls = []
                counts['archives without a record left'] += 1
            expected = [(url(n), [f'Job {n}']) for n in range(len(members)) if n not in damaged]
            intact = [one for one in urls if one in expected]
            if intact != expected:
                raise DataError(f'archive {number}, {kind}, damaged {damaged}: read {urls}; kept in {keep(path)}')
            counts[f'archives, {kind}'] += 1
            counts['intact pages, all read'] += len(expected)
            counts['damaged members'] += len(damaged)
            counts['damaged parts that were counted'] += repairs[DAMAGED]
    for what, count in sorted(counts.items()):
        print(f'{what}: {count}')


def url(number: int) -> str:
    return f'https://a.example/{number}'


def titles(page) -> list[str]:
    return [vacancy['title'] for vacancy in vacancies(page)[0]]


def record(number: int, rng: random.Random) -> bytes:
    filling = rng.randbytes(rng.choice([0, 10, 1000, 40_000, 70_000, 150_000])).hex()
    coding = rng.choice(list(CODINGS))
    body = CODINGS[coding](page(posting(f'Job {number}'), body=filling).encode())
    return warc.response(url(number), body, HTML | {'Content-Encoding': coding})


def damage(member: bytes, rng: random.Random) -> bytes:
    """Half of the damage is among the first 400 bytes, where the headers are."""
    start = rng.randrange(min(len(member), 400) if rng.random() < 0.5 else len(member))
    end = start + rng.choice([1, 2, 5, 50, 500, 100_000])
    noise = rng.randbytes(min(end - start, 1000))
    how = rng.randrange(8)
    if how == 0:
        return member[:start] + bytes([member[start] ^ 1 << rng.randrange(8)]) + member[start + 1 :]
    if how == 1:
        return re.sub(rb'(?<=Length: )\d+', str(rng.choice([0, 1, 99, 999, 70_000, 10**12])).encode(), member, count=1)
    return [
        member[:start] + member[end:],
        member[:start] + noise + member[start:],
        member[:start] + noise + member[end:],
        member[:end] + member[start:],
        member[:start],
        rng.choice([b'', bytes(len(member)), noise, b'\n', b'<html>503 Service Unavailable</html>']),
    ][how - 2]


def keep(path: pathlib.Path) -> pathlib.Path:
    """Moves an archive to where it stays."""
    return path.rename(pathlib.Path(tempfile.mkdtemp()) / path.name)


if __name__ == '__main__':
    sys.exit(console.command(Options, fuzz))
