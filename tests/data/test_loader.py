"""The loader: from records to packed, sharded rows."""

import collections
import concurrent.futures
import itertools
import os
import pickle
import re
import shutil

import jax
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from uwe_jax.data.graph import GRAPHS, SIDES, DatasetError, open_dataset
from uwe_jax.data.loader import Records, StepReader, batches, join_distractor, local_slots
from uwe_jax.data.packed_plan import PackedPlan
from uwe_jax.data.plan import EMPTY, Plan
from uwe_jax.distributed import mesh
from uwe_jax.models.tokenizer import Tokenizer

BOS, EOS = 0, 2
LENGTHS = {'skill': 16, 'job': 16, 'sentence': 48, 'alternative': 16}


def text(*inner):
    return np.array([BOS, *inner, EOS], np.int32)


@pytest.fixture(scope='module')
def plan(dataset):
    return Plan(dataset.graphs, batch_size=16, seed=0, distractor_probability=0.8)


@pytest.fixture(scope='module')
def by_devices(dataset, plan):
    """The packed plan for one, two, four and eight devices."""
    return {devices: PackedPlan(plan, dataset, LENGTHS, devices) for devices in (1, 2, 4, 8)}


@pytest.fixture(scope='module')
def packed(by_devices):
    return by_devices[1]


def ids_of(batch, side, slot):
    """The token ids of one text, of a batch whose rows are all on one device."""
    start, length = batch.texts[side].start[slot], batch.texts[side].length[slot]
    return np.asarray(batch.rows.ids).reshape(-1)[start : start + length]


@pytest.mark.parametrize(
    ('first', 'tokens', 'expected'),
    [
        (False, 10, [BOS, 5, 6, 7, 8, 9, EOS]),
        (True, 10, [BOS, 7, 8, 9, 5, 6, EOS]),
        (False, 6, [BOS, 5, 6, 7, 8, EOS]),
        (True, 5, [BOS, 7, 5, 6, EOS]),
        (True, 4, [BOS, 5, 6, EOS]),
        (False, 3, [BOS, 5, 6, EOS]),
    ],
)
def test_only_the_distractor_is_cut_to_fit(first, tokens, expected):
    np.testing.assert_array_equal(join_distractor(text(5, 6), text(7, 8, 9), first, tokens), expected)


@pytest.fixture
def records(tmp_path):
    """Records '0' to '99' in three shards."""
    bounds = [0, 7, 8, 100]
    for first, last in itertools.pairwise(bounds):
        writer = ArrayRecordWriter(str(tmp_path / f'{first:03d}'), 'group_size:1,uncompressed')
        for number in range(first, last):
            writer.write(b'%d' % number)
        writer.close()
    return Records(sorted(map(str, tmp_path.iterdir())))


def test_records_of_several_shards_come_in_the_order_asked_for(records):
    numbers = np.array([99, 0, 7, 6, 8, 7, 42], np.int32)
    for reader in (records, pickle.loads(pickle.dumps(records))):
        assert reader(numbers) == [b'99', b'0', b'7', b'6', b'8', b'7', b'42']
        assert reader(numbers[:0]) == []


def test_threads_that_read_at_once_do_not_disturb_each_other(records):
    orders = [np.random.default_rng(seed).permutation(100) for seed in range(50)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for order, read in zip(orders, pool.map(records, orders), strict=True):
            assert read == [b'%d' % number for number in order]


def test_every_slot_holds_the_texts_that_the_plan_names(dataset, packed, base_model):
    tokenizer = Tokenizer.from_pretrained(base_model)
    nodes = {side: [node['text'] for node in dataset.nodes(side)] for side in SIDES}
    batch, planned = StepReader(dataset, packed, np.arange(16))(3), packed(3).plan

    def ids(side, node):
        return tokenizer.encode([nodes[side][node]], LENGTHS[side])[0]

    for slot in range(16):
        np.testing.assert_array_equal(ids_of(batch, 'skill', slot), ids('skill', planned.skill[slot]))
        for graph in GRAPHS:
            node = planned.targets[graph].node[slot]
            loaded = ids_of(batch, graph, slot).tolist()
            if node == EMPTY:
                assert loaded == []
            elif graph == 'sentence':  # a distractor may stand on either side
                inner = ids(graph, node)[1:-1].tolist()
                assert inner in (loaded[1 : 1 + len(inner)], loaded[-1 - len(inner) : -1])
            else:
                assert loaded == ids(graph, node).tolist()
    for graph in GRAPHS:
        np.testing.assert_array_equal(batch.edges[graph], planned.targets[graph].positive)


def test_processes_together_hold_what_one_holds(dataset, by_devices):
    whole = StepReader(dataset, by_devices[4], np.arange(16))(1)
    parts = [StepReader(dataset, by_devices[4], slots)(1) for slots in np.split(np.arange(16), 2)]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)


@settings(deadline=None, max_examples=20)
@given(step=st.integers(0, 500), devices=st.sampled_from([1, 2, 4, 8]))
def test_the_mask_has_exactly_the_edges_among_the_nodes_however_the_batch_is_cut(dataset, by_devices, step, devices):
    packed = by_devices[devices]
    planned = packed(step).plan
    parts = [StepReader(dataset, packed, slots)(step) for slots in np.split(np.arange(16), devices)]
    for graph in GRAPHS:
        csr, nodes = dataset.graphs[graph], planned.targets[graph].node
        mask = np.concatenate([part.edges[graph] for part in parts])
        of_skills = [np.isin(nodes, csr.edge_target[csr.edge_skill == skill]) for skill in planned.skill]
        of_targets = [np.isin(planned.skill, csr.edge_skill[csr.edge_target == node]) for node in nodes]
        np.testing.assert_array_equal(mask, of_skills)
        np.testing.assert_array_equal(mask.T, of_targets)


@pytest.mark.parametrize('prefetch', [0, 1, 4])
def test_batches_are_sharded_by_slots_and_rows_and_come_in_order(dataset, by_devices, prefetch):
    sharding, packed = mesh.rows(mesh.make_mesh(4, 2)), by_devices[8]
    read = list(batches(dataset, packed, sharding, range(2, 6), prefetch))
    assert len(read) == 4
    for step, batch in enumerate(read, start=2):
        expected = StepReader(dataset, packed, np.arange(16))(step)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(batch), expected)
        assert batch.edges['job'].addressable_shards[0].data.shape == (2, 16)
        assert batch.rows.ids.addressable_shards[0].data.shape == (packed.rows, 64)


def test_the_only_process_holds_all_slots():
    np.testing.assert_array_equal(local_slots(mesh.rows(mesh.make_mesh(4, 2)), 16), np.arange(16))


Damage = collections.namedtuple('Damage', 'name apply message')
DAMAGES = [
    Damage('missing', lambda path: path.unlink(), 'is missing'),
    Damage('truncated', lambda path: path.write_bytes(path.read_bytes()[:-1]), 'was cut short or altered'),
    Damage('altered', lambda path: path.write_bytes(b'\0' + path.read_bytes()[1:]), 'was cut short or altered'),
]


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda damage: damage.name)
def test_a_damaged_shard_is_refused_by_its_name(dataset, tmp_path, damage):
    copy = shutil.copytree(dataset.directory, tmp_path / 'data')
    [name] = [name for name in dataset.manifest['files'] if name.startswith('uwe_pairs-sentence')]
    damage.apply(copy / name)
    with pytest.raises(DatasetError, match=rf'{re.escape(name)} {damage.message}'):
        open_dataset(copy)


@pytest.mark.parametrize('prefetch', [0, 2])  # read in the foreground, and by threads
def test_a_shard_that_is_damaged_while_a_run_reads_it_ends_the_run_by_its_name(dataset, tmp_path, prefetch):
    copy = open_dataset(shutil.copytree(dataset.directory, tmp_path / 'data'))
    plan = Plan(copy.graphs, batch_size=16, seed=0, distractor_probability=0.8)
    slots = mesh.rows(mesh.make_mesh())
    read = batches(copy, PackedPlan(plan, copy, LENGTHS, 8), slots, range(100), prefetch)
    next(read)
    [shard] = copy.shards('job')
    os.truncate(shard, 1000)
    with pytest.raises(DatasetError, match=rf'{re.escape(shard)}: record \d+ cannot be read'):
        collections.deque(read, maxlen=0)


def test_a_directory_without_a_manifest_is_not_a_dataset(tmp_path):
    with pytest.raises(DatasetError, match='not a dataset'):
        open_dataset(tmp_path)
