"""Speed: what is computed for padding, how fast texts are embedded and models trained, against peers in the same run.

    python -m tests.benchmarks.speed [--parts=embed,title] [--esco=DIR --sentences=FILE] [--texts=2000] [--json=FILE]

Prints a Markdown table, a row for each measurement as soon as it is there. What is compared takes turns within one
process; on a CPU, `quickstart`, `train` and `growth` give each program a process of its own. Times are medians. PyTorch
gets as many threads as there are cores. Run nothing beside it.

padding     The share of real tokens in what the encoder computes in training: 512 skills of --esco with --sentences,
            and 32 of the sample. Only batches are planned.
quickstart  Real tokens per second of the quickstart's training steps, against commit 3776c7e, which encoded padded
            texts. Needs the repository's history.
embed       Skill names of --esco and 3,000 titles, one vector each, against `SentenceTransformer.encode` at the fastest
            of its batch sizes; and the share of the time that the bare matrix products of the real tokens take.
title       One title embedded.
train       A step of 64 skills with their titles, sentences and alternatives, against sentence-transformers'
            multiple-negatives loss on the same texts. Both with dropout, gradient clipping and AdamW.
interaction The gradient of late interaction for 512 skill names, against the matrix products of their real tokens.
growth      The time of a step for 64 skills and more, and the share of late interaction in it.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks import interaction as interaction_benchmark
from tests.benchmarks.speed import data, embedding, steps
from tests.benchmarks.speed.machine import describe, medians
from tests.benchmarks.speed.table import DTYPES, Options, Row, Setting
from uwe_jax.io import console
from uwe_jax.models import download


def main(options: Options) -> None:
    """Prints the table."""
    parts = options.parts.split(',')
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f'--parts: {", ".join(unknown)}, expected some of {",".join(PARTS)}')
    rows = []
    print(f'{describe()}\n\n| | ours | peer | ratio | goal |\n|---|---|---|---|---|', flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or pathlib.Path(scratch)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        directory = pathlib.Path(options.model).expanduser()
        model = data.with_weights(directory, work / 'model') if directory.is_dir() else download.fetch(options.model)
        setting = Setting(options, model, work)
        for part in parts:
            for row in PARTS[part](setting):
                rows.append({'part': part, **dataclasses.asdict(row)})
                print(row, flush=True)
    if options.json:
        options.json.write_text(json.dumps({'machine': describe(), 'rows': rows}, indent=2) + '\n')


def interaction(setting: Setting) -> Iterator[Row]:
    """The blockwise form, and on a TPU the kernel, with gradients."""
    with contextlib.redirect_stdout(sys.stderr):  # what it says does not belong into the table
        length = np.resize(interaction_benchmark.esco_lengths(setting.options.esco / 'skills_en.csv'), 512)
    for dtype in map(jnp.dtype, DTYPES):
        calls = {}
        for form in ('blockwise', 'kernel'):
            if built := interaction_benchmark.build(form, 512, 16, dtype, True):
                inputs = interaction_benchmark.batch(length, 16, dtype, True)
                calls[form] = functools.partial(built, *jax.device_put(inputs, built.input_shardings[0]))
        real = (jnp.ones((1, int(length.sum()), interaction_benchmark.WIDTH), dtype),) * 2
        bare = interaction_benchmark.bare_products(int(length.sum()), dtype, True)
        calls |= {str(cut): functools.partial(program, *real) for cut, program in bare.items()}
        took = medians(calls, 5)
        fastest = min(took[str(cut)] for cut in bare)
        for form in calls.keys() - {str(cut) for cut in bare}:
            yield Row(
                f'late interaction with its gradient, 512 names, {form}, {dtype}',
                f'{1000 * took[form]:.1f} ms',
                f'{1000 * fastest:.1f} ms, the products of {length.sum():,} real tokens',
                took[form] / fastest,
                '≤ 3' if jax.default_backend() == 'cpu' else '≤ 1.5',
            )


PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    'padding': steps.padding,
    'quickstart': steps.quickstart,
    'embed': embedding.embed,
    'title': embedding.title,
    'train': steps.train,
    'interaction': interaction,
    'growth': steps.growth,
}


if __name__ == '__main__':
    sys.exit(console.command(Options, main))
