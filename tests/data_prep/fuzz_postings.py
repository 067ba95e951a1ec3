"""Damages JSON-LD at random, and counts the postings that were left whole and were not read.

    python -m tests.data_prep.fuzz_postings --blocks=10000 --seed=0

A posting is whole if its text still stands in the damaged block, character by character; it must be read as if it
stood alone. An exception ends the run with its traceback, after the seed of the block.
"""

import collections
import dataclasses
import json
import random
import sys
from typing import Any

from data_prep.scrape.postings import Page, Vacancy, vacancies
from tests.data_prep.test_postings import script
from tests.data_prep.web import posting
from uwe_jax.io import console

DESCRIPTIONS = (
    '<p>You write SQL.</p><ul><li>Python</li><li>Airflow &amp; more</li></ul>',
    'Tasks: • bake • sell // see https://a.example/x?a=1&b=2',
    'He said "bake {bread}, [rolls]"; she did,\nand \\ left /* early */ ,]}',
    '&lt;p&gt;B&auml;cker für Köln&lt;/p&gt;',
)
SKILLS = ('SQL', {'@type': 'DefinedTerm', 'name': 'R'}, {'termCode': 'http://esco/1'}, {'@id': 'http://esco/2'})
# What is inserted: the characters that mean something to JSON, JavaScript or HTML.
PIECES = [
    *'"\'{}[],:;\\/<>&\n\t\0 x7',
    '/*',
    '*/',
    '//',
    '<!--',
    '-->',
    '{"',
    '"}',
    '&quot;',
    'null',
    '\\u',
    '\ud800',
    'é',
]


@dataclasses.dataclass(frozen=True)
class Options:
    """Damages blocks of JSON-LD, and reads the postings that are left whole."""

    blocks: int = 10_000
    """How many blocks to damage."""
    seed: int = 0
    """Seed of the first block; each has its own."""


def fuzz(options: Options) -> None:
    """Prints how many postings were left whole and read.

    Raises:
      ValueError: a whole posting was not read as it is.
    """
    counts: collections.Counter[str] = collections.Counter()
    with console.Progress('damaging', options.blocks, 'blocks') as progress:
        for seed in range(options.seed, options.seed + options.blocks):
            text, whole = damaged(random.Random(seed))
            try:
                postings, notes = read(text)
            except BaseException:
                print(f'seed {seed}')
                raise
            lost = [alone for one in whole for alone in read(one)[0] if alone not in postings]
            counts.update({'whole': len(whole), 'whole, but not read': len(lost), 'read': len(postings)})
            counts.update(dict.fromkeys(notes, 1))
            if lost:
                print(f'seed {seed}: {lost}')
            progress.advance()
    for what, count in counts.most_common():
        print(f'{what}: {count}')
    if counts['whole, but not read']:
        raise ValueError('whole postings were not read')


def read(text: str) -> tuple[list[Vacancy], list[str]]:
    return vacancies(Page('page', None, f'<html>{script(text)}</html>'.encode(errors='ignore')))


def damaged(rng: random.Random) -> tuple[str, list[str]]:
    """A block of JSON-LD with one to four faults, and the texts of the postings in it that are still whole."""
    layout: dict[str, Any] = {'ensure_ascii': rng.random() < 0.5, 'indent': rng.choice([None, None, 1])}
    texts = []
    for number in range(rng.randrange(1, 6)):
        skills = rng.sample(SKILLS, rng.randrange(4))
        texts.append(json.dumps(posting(f'Job {number}', rng.choice(DESCRIPTIONS), skills=skills), **layout))
    text = rng.choice(LAYOUTS)(texts)
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(start + rng.choice([0, 1, 1, 5, 40]), len(text))
        inserted = ''.join(rng.choices(PIECES, k=rng.choice([0, 1, 1, 2])))
        text = text[:start] + rng.choice([inserted, inserted, text[start:end] * 2]) + text[end:]
    if rng.random() < 0.2:
        text = text[: rng.randrange(len(text) + 1)]
    return text, [whole for whole in texts if whole in text]


def _list_items(texts: list[str]) -> str:
    items = ', '.join(f'{{"@type": "ListItem", "position": {n}, "item": {text}}}' for n, text in enumerate(texts))
    return f'{{"@type": "ItemList", "itemListElement": [{items}]}}'


LAYOUTS: list[Any] = [
    lambda texts: f'[{", ".join(texts)}]',
    lambda texts: f'{{"@context": "https://schema.org", "@graph": [{{"@type": "WebSite"}}, {",".join(texts)}]}}',
    _list_items,
    '\n'.join,
    lambda texts: f'//<![CDATA[\n{",".join(texts)};\n//]]>',
]


if __name__ == '__main__':
    sys.exit(console.command(Options, fuzz))
