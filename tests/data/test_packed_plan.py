"""The packed plan: the texts of the batch plan, spread over the devices, in rows whose number never changes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwe_jax.data.graph import GRAPHS, SIDES
from uwe_jax.data.packed_plan import ROW, PackedPlan, choose_lengths
from uwe_jax.data.plan import EMPTY, Plan

LENGTHS = {'skill': 16, 'job': 16, 'sentence': 48, 'alternative': 16}


@pytest.fixture(scope='module')
def plan(dataset):
    return Plan(dataset.graphs, batch_size=32, seed=0, distractor_probability=0.8)


@pytest.fixture(scope='module')
def on_one_device(dataset, plan):
    return PackedPlan(plan, dataset, LENGTHS, 1)


@pytest.fixture(scope='module', params=[1, 2, 4, 8])
def packed(dataset, plan, request):
    return PackedPlan(plan, dataset, LENGTHS, request.param)


def by_skill(batch):
    """What each skill of a batch is given, whatever the order of the slots."""
    order = np.argsort(batch.skill)
    nodes = [batch.targets[graph].node[order] for graph in GRAPHS]
    edges = [batch.targets[graph].edge[order] for graph in GRAPHS]
    return np.stack([batch.skill[order], *nodes, *edges, batch.distractors.edge[order]])


@settings(deadline=None, max_examples=30)
@given(step=st.integers(0, 2000))
def test_texts_of_a_device_fill_its_rows_without_touching(packed, step):
    batch = packed(step)
    for device in range(32 // packed.slots_per_device):
        slots = slice(device * packed.slots_per_device, (device + 1) * packed.slots_per_device)
        taken = np.zeros(packed.rows * ROW, int)
        for side in SIDES:
            for first, length in zip(batch.start[side][slots], batch.length[side][slots], strict=True):
                assert length == 0 or first // ROW == (first + length - 1) // ROW
                taken[first : first + length] += 1
        assert taken.max() == 1


@settings(deadline=None, max_examples=20)
@given(step=st.integers(0, 2000))
def test_the_texts_of_a_step_do_not_depend_on_the_number_of_devices(on_one_device, packed, step):
    np.testing.assert_array_equal(by_skill(packed(step).plan), by_skill(on_one_device(step).plan))


@settings(deadline=None, max_examples=20)
@given(step=st.integers(0, 2000))
def test_a_batch_is_the_planned_one_apart_from_what_is_counted_as_left_out(plan, packed, step):
    before, after = by_skill(plan(step)), by_skill(packed(step).plan)
    changed = before != after
    assert (after[changed] == EMPTY).all()
    np.testing.assert_array_equal(after[0], before[0])  # no skill is left out
    nodes, distractors = changed[1:4].sum(), changed[7] & ~changed[2]  # a sentence takes its distractor along
    assert packed(step).left_out.sum() >= nodes + distractors.sum()


@pytest.mark.parametrize('distractor_probability', [0.0, 0.8])
def test_a_batch_that_is_too_large_loses_distractors_before_it_loses_targets(dataset, distractor_probability):
    plan = Plan(dataset.graphs, batch_size=32, seed=0, distractor_probability=distractor_probability)
    packed = PackedPlan(plan, dataset, LENGTHS, 1)
    smaller = 0
    for step in range(200):
        planned, batch = plan(step), packed(step)
        lost = [(planned.targets[g].node != EMPTY).sum() - (batch.plan.targets[g].node != EMPTY).sum() for g in GRAPHS]
        if sum(lost):
            assert (batch.plan.distractors.edge == EMPTY).all()
        smaller += bool(batch.left_out.any())
    assert 0 < smaller < 100


def test_an_emptied_slot_has_no_positive(dataset):
    plan = Plan(dataset.graphs, batch_size=32, seed=0, distractor_probability=0.0)
    packed = PackedPlan(plan, dataset, LENGTHS, 2)
    for step in range(60):
        for targets in packed(step).plan.targets.values():
            assert not targets.positive[:, targets.node == EMPTY].any()
            filled = np.flatnonzero(targets.node != EMPTY)
            assert targets.positive[filled, filled].all()  # slot i still holds the edge of skill i


def test_devices_have_nearly_as_many_tokens_each(dataset, plan):
    packed = PackedPlan(plan, dataset, LENGTHS, 4)
    spread = []
    for step in range(50):
        tokens = sum(packed(step).length.values()).reshape(4, -1).sum(axis=1)
        spread.append(tokens.max() / tokens.mean())
    assert np.mean(spread) < 1.1


@pytest.mark.parametrize('at_once', [1, 3, 8, 1000])
def test_rows_are_cut_into_equal_parts(dataset, plan, at_once):
    whole, cut = (PackedPlan(plan, dataset, LENGTHS, 1, rows) for rows in (0, at_once))
    assert whole.chunks == 1
    assert cut.rows % cut.chunks == 0
    assert cut.rows // cut.chunks <= at_once
    assert whole.rows <= cut.rows < whole.rows + cut.chunks


def test_a_dataset_without_sentences_is_packed_too(dataset, plan):
    empty = {name: getattr(dataset.graphs['sentence'], name)[:0] for name in ('edge_target', 'target_edges')}
    skills = np.zeros_like(dataset.graphs['sentence'].skill_indptr)
    none = dataclasses.replace(
        dataset.graphs['sentence'],
        **empty,
        skill_indptr=skills,
        target_indptr=np.zeros(1, np.int32),
        target_length=np.zeros(0, np.int32),
    )
    without = dataclasses.replace(dataset, graphs={**dataset.graphs, 'sentence': none})
    plan = Plan(without.graphs, batch_size=32, seed=0, distractor_probability=0.8)
    assert not PackedPlan(plan, without, LENGTHS, 2)(0).length['sentence'].any()


NO_OVERRIDE = dict.fromkeys(SIDES, 0)


def test_lengths_are_those_of_data_prep_unless_overridden():
    assert choose_lengths(LENGTHS, NO_OVERRIDE) == LENGTHS
    assert choose_lengths(LENGTHS, NO_OVERRIDE | {'job': 24}) == LENGTHS | {'job': 24}


@pytest.mark.parametrize('length', [2, 65])
def test_a_length_that_no_text_can_have_is_refused_by_name(length):
    with pytest.raises(ValueError, match=rf'data\.length\.sentence: {length}, expected 3 to 64 tokens'):
        choose_lengths(LENGTHS, NO_OVERRIDE | {'sentence': length})
