"""The floating-point operations of a compiled step, by formula and as the compiler counts them."""

import jax
import pytest

from tests.compile_for.conftest import GIB, SIZES, TOKENS
from tests.conftest import experiment
from uwe_jax.compile_for.flops import step_flops
from uwe_jax.compile_for.rehearsal import Rehearsal, tokens_of
from uwe_jax.distributed.mesh import make_mesh
from uwe_jax.interaction import Score


@pytest.mark.parametrize(
    ('form', 'changes'),
    [
        ('reference', {}),
        ('reference', {'run.rows_at_once': 0}),
        ('blockwise', {'score.kind': 'mean'}),
        ('blockwise', {'score.target': 'mean'}),
    ],
    ids=str,
)
def test_the_formula_agrees_with_the_compiler_where_no_loop_runs_twice(base_model, form, changes):
    small = {'model.layers': 1, 'model.dropout': 0.0, 'interaction.form': form, 'interaction.block_entries': 2**30}
    config = experiment(**small | changes)
    rehearsal = Rehearsal(config, base_model, tokens_of(config), make_mesh(devices=jax.devices()[:1]), GIB)
    counted = rehearsal.lower(64).cost_analysis()['flops']
    assert sum(rehearsal.flops(64).values()) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize('form', ['blockwise', 'kernel'])
def test_forms_that_compute_products_again_make_four_instead_of_three(form):
    same = {'rows': 8, 'twice': False, 'batch_size': 16, 'lengths': TOKENS.longest}
    kept, again = (step_flops(SIZES, Score(), name, **same) for name in ('reference', form))
    assert 3 * again['interaction'] == 4 * kept['interaction']


def test_devices_share_the_operations_of_a_step(rehearsal):
    total = step_flops(SIZES, Score(), 'blockwise', rows=8, twice=False, batch_size=16, lengths=TOKENS.longest)
    assert rehearsal.flops(16) == {part: flops / 8 for part, flops in total.items()}


def test_rows_in_chunks_are_encoded_twice(rehearse):
    at_once, in_chunks = rehearse(), rehearse(**{'run.rows_at_once': 2})
    assert in_chunks.rows(128) == (6, 3)  # 16 skills of 17 tokens need 4.25 rows of 64
    assert at_once.rows(128) == (5, 1)
    assert 3 * in_chunks.flops(128)['encoder'] / 6 == 4 * at_once.flops(128)['encoder'] / 5
