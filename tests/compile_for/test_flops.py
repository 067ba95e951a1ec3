"""The floating-point operations of a compiled step, by formula and as the compiler counts them."""

import jax
import pytest

from tests.compile_for.conftest import GIB, LENGTHS, SIZES
from tests.conftest import experiment
from uwe_jax.compile_for.flops import step_flops
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


def test_rematerialisation_adds_one_forward_pass_to_three():
    kept, again = (step_flops(SIZES, Score(), 'blockwise', 16, LENGTHS, remat=remat) for remat in (False, True))
    assert 3 * again['encoder'] == 4 * kept['encoder']
    assert again['interaction'] == kept['interaction']


@pytest.mark.parametrize('form', ['blockwise', 'kernel'])
def test_forms_that_compute_products_again_make_four_instead_of_three(form):
    kept, again = (step_flops(SIZES, Score(), name, 16, LENGTHS) for name in ('reference', form))
    assert 3 * again['interaction'] == 4 * kept['interaction']


def test_devices_share_the_operations_of_a_step(rehearsal):
    total = step_flops(SIZES, Score(), 'blockwise', 16, LENGTHS)
    assert rehearsal.flops(16) == {part: flops / 8 for part, flops in total.items()}
