"""A small training step to rehearse, on some of the eight simulated devices."""

import dataclasses
import json

import jax
import pytest

from tests.conftest import experiment
from uwe_jax.compile_for.rehearsal import Rehearsal, Tokens
from uwe_jax.distributed.mesh import make_mesh
from uwe_jax.models.mpnet import MPNetConfig

SIZES = MPNetConfig(
    vocab_size=64,
    hidden_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=256,
    max_position_embeddings=66,
    relative_attention_num_buckets=32,
    layer_norm_eps=1e-5,
)
TOKENS = Tokens({'skill': 4, 'job': 4, 'sentence': 8, 'alternative': 4}, per_slot=17)
GIB = 2**30


@pytest.fixture(scope='session')
def rehearse(tmp_path_factory):
    """Makes a rehearsal of an encoder with few layers and no weights."""

    def make(devices=8, usable=GIB, device_mesh=None, kind=Rehearsal, sizes=SIZES, tokens=TOKENS, **changes):
        base = tmp_path_factory.mktemp('base')
        (base / 'config.json').write_text(json.dumps({'model_type': 'mpnet'} | dataclasses.asdict(sizes)))
        config = experiment(**{'model.dropout': 0.0} | changes)
        device_mesh = device_mesh or make_mesh(config.mesh.data, config.mesh.fsdp, jax.devices()[:devices])
        return kind(config, base, tokens, device_mesh, usable)

    return make


@pytest.fixture(scope='session')
def rehearsal(rehearse):
    """On 4 x 2 devices."""
    return rehearse(**{'mesh.fsdp': 2})


@pytest.fixture(scope='session')
def trial(rehearsal):
    """The step compiled with a batch of 16."""
    return rehearsal.trial(16)
