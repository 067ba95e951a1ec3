"""Late interaction against the bare products that it cannot do without: time, memory, and what a pod sends.

    python -m tests.benchmarks.interaction [--dtype=bfloat16] [--tokens=16] [--texts=512,1024] [--pods=]

First table: one forward product R, or all four of forward and backward, and each form's time as a multiple of theirs,
in turns within one process; beside it the temporary memory of the compiled program. The rows 'esco' have the lengths of
ESCO's skill names, padded to 16 tokens; in the second of them the products are those of the real tokens alone. The ring
runs on two devices, on a CPU simulated ones that share its cores; its memory is that of one of them. Rows whose forms
would take more than a minute in all, by what smaller ones took, get no times, and neither do forms that would not fit
in the memory.

Second table: the same programs compiled for TPU pods that need not be there (with the extra `tpu`), at a fixed number
of texts a chip: the score rows (both scores, and in the backward pass their gradients), all else that a chip holds at
a time, the collectives with how often they run, and the bytes that a chip sends.
"""

import collections
import csv
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.topology import pod_mesh
from uwe_jax.data.loader import pad
from uwe_jax.distributed import mesh
from uwe_jax.interaction import EXCHANGES, Score, late_interaction
from uwe_jax.io import console
from uwe_jax.models import download
from uwe_jax.models.tokenizer import Tokenizer

TEXTS = flags.DEFINE_list('texts', '128,256,512,1024,2048,4096,8192', 'Texts a side.')
TOKENS = flags.DEFINE_list('tokens', '8,16,64', 'Tokens a text.')
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the embeddings, in the first table.')
REPEATS = flags.DEFINE_integer('repeats', 3, 'Turns; the median of their times counts.')
LIMIT = flags.DEFINE_float('limit', 60.0, 'Seconds that a row may take a turn.')
ESCO = flags.DEFINE_string('esco', 'data_prep/sample/skills_en.csv', 'Whose preferred labels give the real lengths.')
PODS = flags.DEFINE_list('pods', 'v5e:2x4,v5e:8x8,v5e:16x16', 'TPU topologies; empty for none.')
POD_TEXTS = flags.DEFINE_integer('pod_texts', 128, 'Texts a chip in the second table.')

WIDTH = 768  # numbers a token
CUTS = (512, 2048)  # tokens of a block of bare products; the fastest counts


def main(argv: list[str]) -> None:
    """Prints both tables."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    console.start_logging()
    times_and_memory()
    if PODS.value:
        pods()


def times_and_memory() -> None:
    """The first table."""
    print(f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {DTYPE.value}, {WIDTH} numbers a token')
    print('times as multiples of the bare products | temporary MiB; -: not run')
    names = ('reference', 'blockwise', 'kernel', 'ring')
    print(f'{"lengths":>10} {"texts":>6} {"pass":>8} {"bare s":>8} {"GFLOP/s":>8}', *(f'{n:>18}' for n in names))
    real = esco_lengths()
    for tokens in map(int, TOKENS.value):
        for backward in (False, True):
            expected = dict.fromkeys(('bare', *names), 0.0)  # seconds at the next number of texts
            for texts in map(int, TEXTS.value):
                lengths = {f'{tokens}': np.full(texts, tokens, np.int32)}
                if tokens == 16:
                    lengths['esco'] = np.resize(real, texts)
                for kind, length in lengths.items():
                    expected = row(kind, length, tokens, backward, names, expected)
                expected = {name: 4 * took for name, took in expected.items()}


def row(kind, length, tokens, backward, names, expected) -> dict[str, float]:
    """Prints the times and memory of all forms on one batch; returns the seconds, or what was expected of them."""
    texts, dtype = len(length), jnp.dtype(DTYPE.value)
    run = sum(expected.values()) <= LIMIT.value
    programs, memory = {}, {}
    for name in names:
        built = build(name, texts, tokens, dtype, backward)
        if built is not None:
            programs[name], memory[name] = built, compiled.memory(built[0]).temporary
    bare = bare_products(texts * tokens, dtype, backward)
    seconds = dict(expected)
    if run:
        inputs = batch(length, tokens, dtype, backward)
        fits = {name: built for name, built in programs.items() if memory[name] < memory_of_the_machine() / 2}
        calls = {name: functools.partial(p, *jax.device_put(inputs, where)) for name, (p, where) in fits.items()}
        calls |= {('bare', cut): functools.partial(program, *inputs[:3:2]) for cut, program in bare.items()}
        took = median_seconds(calls)
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
        took = median_seconds(
            {cut: functools.partial(p, *inputs) for cut, p in bare_products(count, dtype, backward).items()}
        )
        line('esco real', min(took.values()), flops * (count / (texts * tokens)) ** 2)
    return seconds


def build(name: str, texts: int, tokens: int, dtype: Any, backward: bool) -> tuple[Any, Any] | None:
    """A form's compiled program and where its inputs lie, or None if this machine has no such form."""
    devices = jax.devices()[: 2 if name == 'ring' else 1]
    if name == 'kernel' and jax.default_backend() == 'cpu':
        return None
    if name == 'ring' and len(devices) < 2:
        return None
    device_mesh = mesh.make_mesh(devices=devices)
    how = {'exchange': 'ring'} if name == 'ring' else {'form': name}
    where = mesh.rows(device_mesh)
    return program(device_mesh, texts, tokens, dtype, backward, **how), where


def program(device_mesh: Any, texts: int, tokens: int, dtype: Any, backward: bool, **how: str) -> Any:
    """The scores, and with `backward` what given gradients of theirs pass back, compiled for a mesh."""

    def forward(q, q_len, y, y_len):
        return late_interaction(q, q_len, y, y_len, Score(), mesh=device_mesh, **how)

    def both(q, q_len, y, y_len, *gradients):
        scores, pass_back = jax.vjp(lambda q, y: forward(q, q_len, y, y_len), q, y)
        return scores, pass_back(gradients)

    rows = mesh.rows(device_mesh)
    text = jax.ShapeDtypeStruct((texts, tokens, WIDTH), dtype, sharding=rows)
    length = jax.ShapeDtypeStruct((texts,), jnp.int32, sharding=rows)
    gradient = jax.ShapeDtypeStruct((texts, texts), jnp.float32, sharding=rows)
    shapes = (text, length, text, length) + (gradient, gradient) * backward
    return jax.jit(both if backward else forward).lower(*shapes).compile()


def bare_products(tokens: int, dtype: Any, backward: bool) -> dict[int, Callable]:
    """R of so many tokens a side, and with `backward` R again, R·E_y and Rᵀ·E_q, in blocks; by the blocks' tokens."""

    def dot(a, b, *contracted):
        dims = (tuple((axis,) for axis in contracted), ((), ()))
        return jax.lax.dot_general(a, b, dims, jax.lax.Precision.HIGHEST, jnp.float32)

    def products(cut, q, y):
        q, y = (jnp.pad(x.reshape(-1, WIDTH), ((0, -tokens % cut), (0, 0))).reshape(-1, cut, WIDTH) for x in (q, y))

        def forward(r, a):  # nothing is done with a block of R, but that the next one takes its place
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
    """Random embeddings with the norm of the base model's, and gradients of scores."""
    rng = np.random.default_rng(0)
    q, y = (
        jnp.asarray(rng.normal(0, 3.4 / WIDTH**0.5, (len(length), tokens, WIDTH)).astype(np.float32), dtype)
        for _ in range(2)
    )
    gradients = rng.normal(size=(2, len(length), len(length))).astype(np.float32) if backward else ()
    return (q, jnp.asarray(length), y, jnp.asarray(length), *map(jnp.asarray, gradients))


def median_seconds(calls: dict[Any, Callable]) -> dict[Any, float]:
    """Calls everything once to warm up, and then in turns."""
    for call in calls.values():
        jax.block_until_ready(call())
    took = collections.defaultdict(list)
    for _ in range(REPEATS.value):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            took[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in took.items()}


def memory_of_the_machine() -> int:
    """Bytes of the first device's memory, or of the machine's."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get('bytes_limit') or os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def esco_lengths() -> np.ndarray:
    """Tokens of ESCO's skill names, at most 16, in a random order."""
    with open(ESCO.value, newline='', encoding='utf-8') as file:
        names = [row['preferredLabel'] for row in csv.DictReader(file)]
    ids = Tokenizer.from_pretrained(download.fetch('all-mpnet-base-v2', [download.TOKENIZER])).encode(names, 16)
    length = pad(list(ids), 16).length
    print(f'{len(names)} names of {ESCO.value}: {length.mean():.1f} of 16 tokens')
    return np.random.default_rng(0).permutation(length)


def pods() -> None:
    """The second table."""
    texts, tokens, dtype = POD_TEXTS.value, 16, jnp.bfloat16
    print(f'\n{texts} texts of {tokens} tokens a chip and side, {dtype.dtype}; MiB a chip; collectives as times x MiB')
    print(f'{"pod":>10} {"form":>9} {"exchange":>9} {"pass":>8} {"scores":>7} {"else":>6} {"sent":>8}  collectives')
    for topology in PODS.value:
        device_mesh = pod_mesh(topology)
        for form in ('blockwise', 'kernel'):
            for exchange in EXCHANGES:
                for backward in (False, True):
                    total = texts * device_mesh.size
                    found = program(device_mesh, total, tokens, dtype, backward, form=form, exchange=exchange)
                    rows = (4 if backward else 2) * texts * total * 4
                    held = compiled.memory(found).peak - rows
                    print(
                        f'{topology:>10} {form:>9} {exchange:>9} {"fwd+bwd" if backward else "fwd":>8}',
                        f'{rows / 2**20:>7.1f} {held / 2**20:>6.1f} {compiled.sent(found) / 2**20:>8.1f} ',
                        ', '.join(summary(compiled.collectives(found))),
                        flush=True,
                    )


def summary(found: list[compiled.Collective]) -> Iterator[str]:
    """Collectives of a kind and size together; those below a hundredth of a MiB are left out."""
    counted = collections.Counter()
    for collective in found:
        counted[collective.kind, collective.bytes] += collective.times
    for (kind, size), times in counted.items():
        if size >= 2**20 / 100:
            yield f'{times} x {size / 2**20:.2f} {kind}'


if __name__ == '__main__':
    jax.config.update('jax_num_cpu_devices', 2)
    app.run(main)
