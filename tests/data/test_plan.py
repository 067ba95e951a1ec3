"""The batch plan: which nodes make a batch, as a pure function of graphs, seed and step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwe_jax.data.graph import GRAPHS, BipartiteGraph
from uwe_jax.data.plan import EMPTY, Plan


def make_graph(rng, skills, targets, density):
    joined = rng.random((skills, targets)) < density
    joined[0, 0] = True
    skill, target = np.nonzero(joined[:, joined.any(axis=0)])  # every target has an edge
    targets = target.max() + 1
    return BipartiteGraph.from_edges(skill, target, skills, np.full(targets, 8, np.int32))


def make_graphs(seed, skills=40, targets=25, density=0.1):
    rng = np.random.default_rng(seed)
    return {name: make_graph(rng, skills, targets, density) for name in GRAPHS}


def with_an_edge(graphs):
    return np.flatnonzero(np.any([graph.skill_degree > 0 for graph in graphs.values()], axis=0))


def edges_of(graph):
    return set(zip(graph.edge_skill.tolist(), graph.edge_target.tolist(), strict=True))


@st.composite
def plans(draw):
    graphs = make_graphs(draw(st.integers(0, 2**16)), density=draw(st.sampled_from([0.02, 0.1, 0.5])))
    batch_size = draw(st.integers(1, len(with_an_edge(graphs))))
    seed = draw(st.integers(0, 2**32 - 1))
    return graphs, Plan(graphs, batch_size=batch_size, seed=seed, distractor_probability=0.8)


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 50))
def test_the_positives_are_exactly_the_graphs_edges_among_the_batchs_nodes(drawn, step):
    graphs, plan = drawn
    batch = plan(step)
    for name, targets in batch.targets.items():
        edges = edges_of(graphs[name])
        expected = [[(s, t) in edges for t in targets.node] for s in batch.skill]
        np.testing.assert_array_equal(targets.positive, expected)


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 50))
def test_the_nodes_of_a_batch_are_distinct(drawn, step):
    _, plan = drawn
    batch = plan(step)
    assert len(set(batch.skill)) == plan.batch_size
    for targets in batch.targets.values():
        nodes = targets.node[targets.node != EMPTY]
        assert len(set(nodes)) == len(nodes)


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 50))
def test_each_slot_holds_an_edge_of_its_skill_unless_all_its_targets_are_taken(drawn, step):
    graphs, plan = drawn
    batch = plan(step)
    for name, targets in batch.targets.items():
        graph, filled = graphs[name], targets.edge != EMPTY
        nodes = targets.node[filled]
        np.testing.assert_array_equal(graph.edge_skill[targets.edge[filled]], batch.skill[filled])
        np.testing.assert_array_equal(graph.edge_target[targets.edge[filled]], nodes)
        assert np.diagonal(targets.positive)[filled].all()
        for slot in np.flatnonzero(~filled):
            of_skill = graph.edge_target[graph.edge_skill == batch.skill[slot]]
            assert set(of_skill) <= set(targets.node[:slot])


@settings(deadline=None, max_examples=60)
@given(plans())
def test_every_epoch_shows_every_skill_once(drawn):
    graphs, plan = drawn
    eligible = with_an_edge(graphs)
    steps = -(-3 * len(eligible) // plan.batch_size)
    stream = np.concatenate([plan(step).skill for step in range(steps)])
    for epoch in range(3):
        shown = stream[epoch * len(eligible) : (epoch + 1) * len(eligible)]
        np.testing.assert_array_equal(np.sort(shown), eligible)


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 50))
def test_distractors_stand_beside_real_sentences_only(drawn, step):
    batch = drawn[1](step)
    assert (batch.targets['sentence'].edge[batch.distractors.edge != EMPTY] != EMPTY).all()


@settings(deadline=None, max_examples=60)
@given(plans(), st.integers(0, 50))
def test_distractors_are_joined_to_no_skill_of_the_batch(drawn, step):
    graphs, plan = drawn
    batch = plan(step)
    graph = graphs['sentence']
    chosen = batch.distractors.edge != EMPTY
    edges = edges_of(graph)
    for sentence in graph.edge_target[batch.distractors.edge[chosen]]:
        assert not any((skill, sentence) in edges for skill in batch.skill)


@pytest.mark.parametrize('batch_size', [8, 24])  # four batches per epoch, and fewer than two
def test_a_batch_does_not_depend_on_the_batches_before_it(batch_size):
    forwards, backwards = edges_drawn(7, range(12), batch_size), edges_drawn(7, reversed(range(12)), batch_size)
    assert forwards == backwards


def test_another_seed_or_step_gives_another_batch():
    batches = edges_drawn(7, range(12))
    assert batches != edges_drawn(8, range(12))
    assert len({tuple(edges) for edges in batches.values()}) == 12


def edges_drawn(seed, steps, batch_size=8):
    plan = Plan(make_graphs(0), batch_size=batch_size, seed=seed, distractor_probability=0.8)
    return {step: plan(step).targets['job'].edge.tolist() for step in steps}


def test_targets_of_a_skill_are_drawn_uniformly():
    graphs = {name: BipartiteGraph.from_edges(np.zeros(4, int), np.arange(4), 1, np.full(4, 8)) for name in GRAPHS}
    plan = Plan(graphs, batch_size=1, seed=0, distractor_probability=0.0)
    drawn = np.bincount([plan(step).targets['job'].node[0] for step in range(2000)])
    assert (np.abs(drawn - 500) < 80).all()  # four standard deviations


def test_a_sentence_gets_a_distractor_with_the_given_probability_half_of_the_time_before_it():
    graphs = make_graphs(0, skills=400, targets=2000, density=0.002)
    plan = Plan(graphs, batch_size=100, seed=0, distractor_probability=0.8)
    batches = [plan(step) for step in range(40)]
    filled = np.concatenate([batch.targets['sentence'].edge != EMPTY for batch in batches])
    joined = np.concatenate([batch.distractors.edge != EMPTY for batch in batches])
    first = np.concatenate([batch.distractors.first for batch in batches])
    assert joined[filled].mean() == pytest.approx(0.8, abs=0.03)
    assert first[joined].mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize('size', [0, -1])
def test_a_batch_without_skills_is_refused(size):
    with pytest.raises(ValueError, match=rf'data\.batch_size: {size}, expected a positive number'):
        Plan(make_graphs(0), batch_size=size, seed=0, distractor_probability=0.8)


def test_more_skills_per_batch_than_the_graph_has_are_refused():
    with pytest.raises(ValueError, match=r'data\.batch_size: 41 skills per batch, but only \d+ skills have an edge'):
        Plan(make_graphs(0), batch_size=41, seed=0, distractor_probability=0.8)


def test_more_edges_than_int32_can_number_are_refused():
    many = np.broadcast_to(np.int32(0), 2**31)  # in no memory
    with pytest.raises(ValueError, match='2147483648 edges, expected at most 2147483647'):
        BipartiteGraph.from_edges(many, many, 1, np.full(1, 8, np.int32))
