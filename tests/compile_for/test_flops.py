"""Floating-point operations by formula: by hand, and as the compiler counts them."""

import dataclasses

import jax
import pytest

from tests.compile_for.conftest import GIB, LENGTHS, SIZES
from tests.conftest import experiment
from uwe_jax.compile_for.flops import encoder_flops, interaction_flops, step_flops
from uwe_jax.compile_for.rehearsal import ESCO_LENGTHS, Rehearsal
from uwe_jax.distributed.mesh import make_mesh
from uwe_jax.interaction import Score


@pytest.mark.parametrize(
    ('form', 'changes'),
    [
        ('reference', {}),
        ('blockwise', {}),
        ('blockwise', {'model.remat': True}),
        ('blockwise', {'score.kind': 'mean'}),
        ('blockwise', {'score.target': 'mean'}),
    ],
    ids=str,
)
def test_the_formula_agrees_with_the_compiler_where_no_loop_runs_twice(base_model, form, changes):
    small = {'model.layers': 1, 'model.dropout': 0.0, 'interaction.form': form, 'interaction.block_entries': 2**30}
    config = experiment(**small | changes)
    rehearsal = Rehearsal(config, base_model, ESCO_LENGTHS, make_mesh(devices=jax.devices()[:1]), GIB)
    counted = rehearsal.lower(64).cost_analysis()['flops']
    assert sum(rehearsal.flops(64).values()) == pytest.approx(counted, rel=0.02)


def test_operations_of_the_encoder_by_hand():
    per_token = 2 * (4 * 128 * 128 + 2 * 128 * 256)
    per_pair = 2 * 2 * 128  # a logit, and a weighted value
    assert encoder_flops(SIZES, 1, 1) == 3 * (per_token + per_pair)
    assert encoder_flops(SIZES, 5, 3) == 3 * 5 * (3 * per_token + 3 * 3 * per_pair)


def test_operations_of_the_encoder_grow_with_its_layers():
    twelve = dataclasses.replace(SIZES, num_hidden_layers=12)
    assert encoder_flops(twelve, 5, 3) == 12 * encoder_flops(SIZES, 5, 3)


def test_rematerialisation_adds_one_forward_pass_to_three():
    assert 3 * encoder_flops(SIZES, 5, 3, remat=True) == 4 * encoder_flops(SIZES, 5, 3)


@pytest.mark.parametrize(
    ('score', 'form', 'products'),
    [
        (Score(), 'blockwise', 4 * (7 * 3) * (5 * 2)),
        (Score(), 'kernel', 4 * (7 * 3) * (5 * 2)),
        (Score(kind='maxsim'), 'reference', 3 * (7 * 3) * (5 * 2)),
        (Score(target='mean'), 'blockwise', 3 * 7 * 5 * (3 + 2)),
        (Score(kind='mean'), 'blockwise', 3 * 7 * 5),
    ],
)
def test_operations_of_the_interaction_by_hand(score, form, products):
    assert interaction_flops(score, form, 128, queries=7, q_tokens=3, targets=5, y_tokens=2) == 2 * 128 * products


def test_devices_share_the_operations_of_a_step(rehearsal):
    total = step_flops(SIZES, Score(), 'blockwise', 16, LENGTHS)
    assert rehearsal.flops(16) == {part: flops / 8 for part, flops in total.items()}
