"""The search for the largest batch: few trials, each made once, and no program kept."""

import gc
import math
import weakref

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compile_for.conftest import GIB
from uwe_jax.compile_for.compiled import Memory
from uwe_jax.compile_for.rehearsal import Trial
from uwe_jax.compile_for.search import first_guess, largest, without_program


def search(limit, start):
    """The result of the search where numbers up to a limit fit, and the numbers tried, in order."""
    tried = []
    return largest(lambda number: tried.append(number) or number <= limit, start), tried


@settings(deadline=None)
@given(limit=st.integers(0, 10**6), start=st.integers(1, 10**6))
def test_the_search_ends_within_an_eighth_of_the_largest_that_fits(limit, start):
    (fitting, refused), tried = search(limit, start)
    assert fitting <= limit < refused
    assert refused - fitting <= max(1, fitting // 8)
    assert fitting in {0, *tried}
    assert refused in tried


@settings(deadline=None)
@given(limit=st.integers(0, 10**6), start=st.integers(1, 10**6))
def test_the_search_makes_few_trials_and_none_twice(limit, start):
    _, tried = search(limit, start)
    assert len(tried) == len(set(tried)) <= 10 + abs(math.log2((limit + 1) / start))


@given(limit=st.integers(0, 15), start=st.integers(1, 100))
def test_among_small_numbers_the_search_finds_the_largest(limit, start):
    assert search(limit, start)[0] == (limit, limit + 1)


@given(start=st.integers(1, 10**6))
def test_a_good_guess_takes_two_trials(start):
    assert len(search(start + max(1, start // 8) - 1, start)[1]) == 2


@pytest.mark.parametrize(
    ('limit', 'tried'),
    [
        (90, [80, 90, 110, 100]),
        (200, [80, 90, 110, 150, 230, 190, 210]),
        (65, [80, 70, 50, 60, 65]),
        (2, [80, 70, 50, 25, 12, 6, 3, 1, 2]),
    ],
)
def test_steps_double_until_the_edge_is_passed_and_then_halve(limit, tried):
    assert search(limit, start=80)[1] == tried


def test_the_guess_fills_the_memory_if_everything_but_state_and_gradients_grows_with_the_batch(rehearse):
    rehearsal = rehearse(usable=GIB)
    arguments = rehearsal.arguments(16)
    fixed = 2 * arguments['parameters'] + arguments['optimizer state']
    tenth = (GIB - fixed) // 10
    assert first_guess(rehearsal, Trial(16, None, Memory(0, 0, 0, 0, fixed + tenth), '')) in (19, 20)  # 2 skills each
    assert first_guess(rehearsal, Trial(16, None, Memory(0, 0, 0, 0, fixed + 20 * tenth), 'needs 2.00 GiB')) == 1


def test_after_a_refusal_by_the_compiler_the_guess_is_half_of_the_skills(rehearse):
    assert first_guess(rehearse(), Trial(64, None, None, 'Used 20G of 15.75G hbm')) == 4  # of 8 per device


def test_a_program_is_freed_after_its_trial():
    trial = Trial(16, jax.jit(jnp.sin).lower(jnp.zeros(3)).compile(), Memory(0, 0, 0, 0, 0), '')
    executable = weakref.ref(trial.program._executable)
    gc.collect()
    assert executable() is not None
    trial = without_program(trial)
    gc.collect()
    assert executable() is None
