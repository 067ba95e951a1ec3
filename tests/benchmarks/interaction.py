"""Late interaction measured against the bare matrix products that it needs: time, memory, and what a pod sends.

    python -m tests.benchmarks.interaction [--dtype=bfloat16] [--tokens=16] [--texts=512,1024] [--pods=]

First table: the pairs of tokens that each form computes, as multiples of the real ones, for ESCO's skill names on both
sides, padded to 16 tokens. A form works on the tokens of the longest text of a block or tile; nothing is run.

Second table: the time of the bare products (R forward, or all four of forward and backward), and the time of each form
as a multiple of it, measured in turns within one process, with the temporary memory of the compiled program. The rows
'esco' have the lengths of ESCO's skill names, padded to 16 tokens. In the rows 'esco real' the bare products are those
of the real tokens only: the roofline of ragged texts. This command prints them, without the third table:

    python -m tests.benchmarks.interaction --tokens=16 --texts=512 --pods=

The ring runs on two devices (on a CPU simulated ones, which share its cores); its memory is that of one of them. Not
timed are rows whose forms would together take more than a minute, judging by smaller rows, and forms that would not fit
into the memory.

Third table: the same programs compiled for TPU pods, which need not be there (with the extra `tpu`), for a fixed
number of texts per chip: the scores (both, and in the backward pass their gradients), the peak of all else
that a chip holds, the bytes that it sends, and the collectives.
"""

import collections
import csv
import dataclasses
import functools
import math
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.topology import pod_mesh
from uwe_jax.distributed import mesh
from uwe_jax.interaction import EXCHANGES, Score, blockwise, exchanged, late_interaction, tpu
from uwe_jax.io import console
from uwe_jax.models import download
from uwe_jax.models.tokenizer import Tokenizer

WIDTH = 768  # of an embedding
CUTS = (512, 2048)  # tokens per side of a block of bare products; the faster one counts


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares late interaction with the bare matrix products that it needs."""

    texts: str = '128,256,512,1024,2048,4096,8192'
    """Texts per side."""
    tokens: str = '8,16,64'
    """Tokens per text."""
    dtype: Literal['float32', 'bfloat16'] = 'float32'
    """Dtype of the embeddings in the second table."""
    repeats: int = 3
    """Turns; the median of their times counts."""
    limit: float = 60.0
    """Seconds that a row may take per turn."""
    esco: pathlib.Path = pathlib.Path('data_prep/sample/skills_en.csv')
    """The table whose preferred labels give the real lengths."""
    pods: str = 'v5e:2x4,v5e:8x8,v5e:16x16'
    """TPU topologies; empty for none."""
    pod_texts: int = 128
    """Texts per chip in the third table."""


def main(options: Options) -> None:
    """Prints the tables."""
    real = esco_lengths(options.esco)
    pairs_of_tokens(options, real)
    times_and_memory(options, real)
    if options.pods:
        pods(options)


def pairs_of_tokens(options: Options, real: np.ndarray) -> None:
    """The first table."""
    print('pairs of tokens that are computed, as multiples of the real ones')
    for number, texts in enumerate(map(int, options.texts.split(','))):
        shape, length = (texts, 16, WIDTH), np.resize(real, texts)
        blocks = functools.partial(blockwise.block_sizes, shape, shape)
        forms = {
            'padded': ((1, 1), lambda tokens, _: (tokens,)),
            'blockwise on a CPU': (blocks(blockwise.CPU_ENTRIES), blockwise.lengths),
            'on an accelerator': (blocks(blockwise.ACCELERATOR_ENTRIES), blockwise.lengths),
            'kernel on a TPU': (tpu.tile_sizes(16), lambda tokens, _: tpu.lengths(tokens)),
        }
        if number == 0:
            print(f'{"texts":>6}', *(f'{name:>18}' for name in forms))
        cells = [
            math.prod(computed_tokens(length, size, lengths) for size in sizes) for sizes, lengths in forms.values()
        ]
        print(f'{texts:>6}', *(f'{pairs / length.sum() ** 2:>18.2f}' for pairs in cells))
    print()


def computed_tokens(length: np.ndarray, size: int, lengths: Callable) -> int:
    """Of one side, padded to 16 tokens, in sorted blocks of `size` texts."""
    longest = np.sort(length)[::-1][::size]
    steps = np.array(lengths(16, len(longest)))
    return size * steps[np.searchsorted(steps, longest)].sum()


def times_and_memory(options: Options, real: np.ndarray) -> None:
    """The second table."""
    print(f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {options.dtype}, width {WIDTH}')
    print('times as multiples of the bare products | temporary MiB; -: not run')
    names = ('reference', 'blockwise', 'kernel', 'ring')
    print(f'{"lengths":>10} {"texts":>6} {"pass":>8} {"bare s":>8} {"GFLOP/s":>8}', *(f'{n:>18}' for n in names))
    for tokens in map(int, options.tokens.split(',')):
        for backward in (False, True):
            expected = dict.fromkeys(('bare', *names), 0.0)  # seconds at the next number of texts
            for texts in map(int, options.texts.split(',')):
                lengths = {f'{tokens}': np.full(texts, tokens, np.int32)}
                if tokens == 16:
                    lengths['esco'] = np.resize(real, texts)
                for kind, length in lengths.items():
                    expected = row(options, kind, length, tokens, backward, names, expected)
                expected = {name: 4 * took for name, took in expected.items()}


def row(options, kind, length, tokens, backward, names, expected) -> dict[str, float]:
    """Prints the times and memory of all forms on one batch; returns their seconds, as measured or as expected."""
    texts, dtype = len(length), jnp.dtype(options.dtype)
    run = sum(expected.values()) <= options.limit
    programs, memory = {}, {}
    for name in names:
        built = build(name, texts, tokens, dtype, backward)
        if built is not None:
            programs[name], memory[name] = built, compiled.memory(built).temporary
    bare = bare_products(texts * tokens, dtype, backward)
    seconds = dict(expected)
    if run:
        inputs = batch(length, tokens, dtype, backward)
        fits = {name: built for name, built in programs.items() if memory[name] < memory_of_the_machine() / 2}
        calls = {name: functools.partial(p, *jax.device_put(inputs, p.input_shardings[0])) for name, p in fits.items()}
        calls |= {('bare', cut): functools.partial(program, *inputs[:3:2]) for cut, program in bare.items()}
        took = median_seconds(calls, options.repeats)
        seconds |= {name: took[name] for name in fits}
        seconds['bare'] = min(took['bare', cut] for cut in bare)
    flops = (4 if backward else 1) * 2 * (texts * tokens) ** 2 * WIDTH

    def line(label, base, flops):
        cells = []
        for name in names:
            multiple = f'{seconds[name] / base:.2f}' if run and name in seconds and name in programs else '-'
            cells.append(f'{multiple} | {memory[name] / 2**20:,.0f}' if name in memory else 'none')
        speed = (f'{base:.3f}', f'{flops / base / 1e9:.0f}') if run else ('-', '-')
        way = 'fwd+bwd' if backward else 'fwd'
        print(f'{label:>10} {texts:>6} {way:>8} {speed[0]:>8} {speed[1]:>8}', *(f'{c:>18}' for c in cells), flush=True)

    line(kind if kind == 'esco' else f'{tokens}', seconds['bare'] or 1.0, flops)
    if kind == 'esco' and run:
        count = int(length.sum())
        inputs = (jnp.ones((1, count, WIDTH), dtype),) * 2
        bare = bare_products(count, dtype, backward)
        took = median_seconds(
            {cut: functools.partial(program, *inputs) for cut, program in bare.items()}, options.repeats
        )
        line('esco real', min(took.values()), flops * (count / (texts * tokens)) ** 2)
    return seconds


def build(name: str, texts: int, tokens: int, dtype: Any, backward: bool) -> jax.stages.Compiled | None:
    """The compiled program of a form, or None if this machine has no such form."""
    devices = jax.devices()[: 2 if name == 'ring' else 1]
    if name == 'kernel' and jax.default_backend() != 'tpu':
        return None
    if name == 'ring' and len(devices) < 2:
        return None
    device_mesh = mesh.make_mesh(devices=devices)
    how = {'exchange': 'ring'} if name == 'ring' else {'form': name}
    return program(device_mesh, texts, tokens, dtype, backward, **how)


def program(
    device_mesh: Any,
    texts: int,
    tokens: int,
    dtype: Any,
    backward: bool,
    form: str = 'blockwise',
    exchange: str = 'gather',
) -> jax.stages.Compiled:
    """The scores, and with `backward` the gradients that their cotangents pass back, compiled for a mesh."""
    platform = device_mesh.devices.flat[0].platform
    interact = functools.partial(late_interaction, score=Score(), form=form, platform=platform)
    forward = functools.partial(exchanged, interact, exchange=exchange, mesh=device_mesh)

    def both(q, q_len, y, y_len, *gradients):
        scores, pass_back = jax.vjp(lambda q, y: forward(q, q_len, y, y_len), q, y)
        return scores, pass_back(gradients)

    rows = mesh.rows(device_mesh)
    text = jax.ShapeDtypeStruct((texts, tokens, WIDTH), dtype, sharding=rows)
    length = jax.ShapeDtypeStruct((texts,), jnp.int32, sharding=rows)
    gradient = jax.ShapeDtypeStruct((texts, texts), jnp.float32, sharding=mesh.columns(device_mesh))
    shapes = (text, length, text, length) + (gradient, gradient) * backward
    return jax.jit(both if backward else forward).lower(*shapes).compile()


def bare_products(tokens: int, dtype: Any, backward: bool) -> dict[int, Callable]:
    """R of this many tokens per side, and with `backward` R again, R·E_y and Rᵀ·E_q, by the tokens in a block."""

    def dot(a, b, *contracted):
        dims = (tuple((axis,) for axis in contracted), ((), ()))
        return jax.lax.dot_general(a, b, dims, jax.lax.Precision.HIGHEST, jnp.float32)

    def products(cut, q, y):
        q, y = (jnp.pad(x.reshape(-1, WIDTH), ((0, -tokens % cut), (0, 0))).reshape(-1, cut, WIDTH) for x in (q, y))

        def forward(r, a):  # a block of R is only replaced by the next one
            return jax.lax.scan(lambda _, b: (dot(a, b, 1, 1), None), r, y)

        def all_but_forward(dy, a):
            def block(dq, b):
                r = dot(a, b, 1, 1).astype(dtype)
                return dq + dot(r, b, 1, 0), dot(r, a, 0, 0)

            dq, parts = jax.lax.scan(block, jnp.zeros(a.shape, jnp.float32), y)
            return dy + parts, dq

        r, _ = jax.lax.scan(forward, jnp.zeros((cut, cut), jnp.float32), q)
        return (r, jax.lax.scan(all_but_forward, jnp.zeros(y.shape, jnp.float32), q)) if backward else r

    return {cut: jax.jit(functools.partial(products, cut)) for cut in CUTS if cut <= max(tokens, CUTS[0])}


def batch(length: np.ndarray, tokens: int, dtype: Any, backward: bool) -> tuple:
    """Random embeddings of the base model's norm, their lengths, and with `backward` cotangents of both scores."""
    rng = np.random.default_rng(0)
    q, y = (
        jnp.asarray(rng.normal(0, 3.4 / WIDTH**0.5, (len(length), tokens, WIDTH)).astype(np.float32), dtype)
        for _ in range(2)
    )
    gradients = rng.normal(size=(2, len(length), len(length))).astype(np.float32) if backward else ()
    return (q, jnp.asarray(length), y, jnp.asarray(length), *map(jnp.asarray, gradients))


def median_seconds(calls: dict[Any, Callable], repeats: int) -> dict[Any, float]:
    """Calls everything once to warm up, and then in turns."""
    for call in calls.values():
        jax.block_until_ready(call())
    took = collections.defaultdict(list)
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            took[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in took.items()}


def memory_of_the_machine() -> int:
    """Bytes of memory of the first device, or else of the machine."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get('bytes_limit') or os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def esco_lengths(table: pathlib.Path) -> np.ndarray:
    """Tokens of ESCO's skill names, at most 16, in random order."""
    with open(table, newline='', encoding='utf-8') as file:
        names = [row['preferredLabel'] for row in csv.DictReader(file)]
    ids = Tokenizer.from_pretrained(download.fetch('all-mpnet-base-v2', [download.TOKENIZER])).encode(names, 16)
    length = np.array([len(text) for text in ids], np.int32)
    print(f'{len(names)} names of {table}: {length.mean():.1f} of 16 tokens')
    return np.random.default_rng(0).permutation(length)


def pods(options: Options) -> None:
    """The third table."""
    texts, tokens, dtype = options.pod_texts, 16, jnp.bfloat16
    print(
        f'\n{texts} texts of {tokens} tokens per chip and side, {dtype.dtype}; MiB per chip; collectives: times x MiB'
    )
    print(f'{"pod":>10} {"form":>9} {"exchange":>9} {"pass":>8} {"scores":>7} {"else":>6} {"sent":>8}  collectives')
    for topology in options.pods.split(','):
        device_mesh = pod_mesh(topology)
        for form in ('blockwise', 'kernel'):
            for exchange in EXCHANGES:
                for backward in (False, True):
                    total = texts * device_mesh.size
                    built = program(device_mesh, total, tokens, dtype, backward, form=form, exchange=exchange)
                    rows = (4 if backward else 2) * texts * total * 4
                    held = compiled.memory(built).peak - rows
                    print(
                        f'{topology:>10} {form:>9} {exchange:>9} {"fwd+bwd" if backward else "fwd":>8}',
                        f'{rows / 2**20:>7.1f} {held / 2**20:>6.1f} {compiled.sent(built) / 2**20:>8.1f} ',
                        ', '.join(summary(compiled.collectives(built))),
                        flush=True,
                    )


def summary(collectives: list[compiled.Collective]) -> Iterator[str]:
    """Counts the collectives by kind and size; those below a hundredth of a MiB are left out."""
    counted = collections.Counter()
    for collective in collectives:
        counted[collective.kind, collective.bytes] += collective.times
    for (kind, size), times in counted.items():
        if size >= 2**20 / 100:
            yield f'{times} x {size / 2**20:.2f} {kind}'


if __name__ == '__main__':
    jax.config.update('jax_num_cpu_devices', 2)
    sys.exit(console.command(Options, main))
