"""How fast texts are embedded, against sentence-transformers and the bare matrix products."""

import functools
import importlib.util
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks.speed import data
from tests.benchmarks.speed.machine import medians, seconds_of_turns
from tests.benchmarks.speed.table import DTYPES, NO_PEER, Row, Setting
from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.models import download
from uwe_jax.models.mpnet import MPNetConfig
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.ranking import Ranker

BATCH_SIZES = (32, 64, 128, 256)  # of sentence-transformers
TRIED = 1000  # texts that the batch sizes are compared with
CHAIN_TOKENS = (1024, 2048, 4096)  # per call of the bare products; the fastest counts
ACCELERATOR_CHAIN_TOKENS = (4096, 16384, 65536)
TITLE = 'senior java software engineer'
TITLE_TURNS = 40


def embed(setting: Setting) -> Iterator[Row]:
    """Many texts, each as one vector."""
    texts = data.names_and_titles(setting.options.esco, setting.options.texts)
    for dtype in DTYPES:
        ranker = Ranker.from_pretrained(setting.model, pooling='mean', dtype=dtype)
        for count in (1, 6, 12, 40, TRIED):  # compiles all shapes
            ranker.embed(texts[:count])
        calls: dict[str, Callable] = {'ours': lambda ranker=ranker: ranker.embed(texts).tokens}
        size = 0
        if encode := peer_encoder(setting, dtype):
            tried = {str(size): functools.partial(encode, texts[:TRIED], size) for size in BATCH_SIZES}
            size = int(min(took := medians(tried, 1), key=lambda name: took[name]))
            calls['peer'] = functools.partial(encode, texts, size)
        took = {name: float(seconds[0]) for name, seconds in seconds_of_turns(calls, 1).items()}
        speed = {name: len(texts) / seconds for name, seconds in took.items()}
        yield Row(
            f'texts/s, {len(texts):,} names and titles embedded, {dtype}',
            f'{speed["ours"]:,.0f}',
            f'{speed["peer"]:,.0f}, batches of {size}' if size else NO_PEER,
            speed['ours'] / speed['peer'] if size else None,
            '≥ 1.4' if dtype == 'float32' else '≥ 1.3',
        )
        tokens = sum(map(len, Tokenizer.from_pretrained(setting.model).encode(texts, MAX_TOKENS)))
        per_token = min(
            medians({'': functools.partial(*chain(setting.model, count, dtype))}, 3)[''] / count
            for count in (CHAIN_TOKENS if jax.default_backend() == 'cpu' else ACCELERATOR_CHAIN_TOKENS)
        )
        yield Row(
            f'of the time, the bare products of {tokens:,} real tokens, {dtype}',
            f'{took["ours"]:,.1f} s',
            f'{tokens * per_token:,.1f} s, {flops_per_token(setting.model) / per_token / 1e9:,.0f} GFLOP/s',
            tokens * per_token / took['ours'],
            '≥ 0.75',
        )


def title(setting: Setting) -> Iterator[Row]:
    """The time from one text to its vector."""
    for dtype in DTYPES:
        ranker = Ranker.from_pretrained(setting.model, pooling='mean', dtype=dtype)
        calls: dict[str, Callable] = {'ours': lambda ranker=ranker: ranker.embed([TITLE]).tokens}
        if encode := peer_encoder(setting, dtype):
            calls['peer'] = functools.partial(encode, [TITLE], 1)
        took = medians(calls, TITLE_TURNS, warm_up=3)
        yield Row(
            f'one title embedded, {dtype}',
            f'{1000 * took["ours"]:.1f} ms',
            f'{1000 * took["peer"]:.1f} ms' if 'peer' in took else NO_PEER,
            took['ours'] / took['peer'] if 'peer' in took else None,
            '≤ 0.55' if dtype == 'float32' else '≤ 0.8',
        )


def peer_encoder(setting: Setting, dtype: str) -> Callable | None:
    """sentence-transformers' `encode`, where it is installed."""
    if not importlib.util.find_spec('sentence_transformers'):
        return None
    from tests.benchmarks.speed import peers

    return peers.encoder(setting.model, dtype)


def chain(model: pathlib.Path, tokens: int, dtype: str) -> tuple[Callable, jax.Array, list]:
    """The matrix products of all layers, each fed by the one before, and arguments for them: [tokens, d] -> same."""
    config = MPNetConfig.read(model / download.CONFIG)
    d, inner = config.hidden_size, config.intermediate_size
    precision = jax.lax.Precision.HIGHEST if dtype == 'float32' else None

    def product(x, w):
        return jnp.matmul(x, w, precision=precision, preferred_element_type=jnp.float32).astype(dtype)

    @jax.jit
    def run(x, layers):
        for q, k, v, o, up, down in layers:
            x = product(product(x, q) + product(x, k) + product(x, v), o)
            x = product(product(x, up), down)
        return x

    rng = np.random.default_rng(0)

    def random(*shape):
        return jnp.asarray(rng.standard_normal(shape, np.float32) / shape[0] ** 0.5, dtype)

    layers = [
        [*(random(d, d) for _ in range(4)), random(d, inner), random(inner, d)] for _ in range(config.num_hidden_layers)
    ]
    return run, random(tokens, d), layers


def flops_per_token(model: pathlib.Path) -> int:
    """Of the bare products."""
    config = MPNetConfig.read(model / download.CONFIG)
    d, inner = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * 2 * (4 * d * d + 2 * d * inner)
