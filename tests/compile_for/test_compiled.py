"""What a compiled program holds and sends, by hand: on eight simulated devices, and in HLO of the TPU's compiler."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from uwe_jax.compile_for.compiled import Collective, Memory, collectives, flops, memory, sent
from uwe_jax.compile_for.topology import pod_mesh
from uwe_jax.distributed.mesh import AXES, make_mesh, replicated, rows

SPLIT, WHOLE = PartitionSpec(AXES), PartitionSpec()
RING = [(device, (device + 1) % 8) for device in range(8)]
PART = 8 * 256 * 4  # bytes per device of [64, 256] float32; a TPU's compiler replaces a smaller reduce-scatter


def program(f, in_spec=SPLIT, out_spec=SPLIT, mesh=None):
    """Compiles f for 4 x 2 devices; it maps a device's shard of a [64, 256] float32 array to its shard of a result."""
    mesh = mesh or make_mesh(data=4, fsdp=2)
    on_devices = jax.shard_map(f, mesh=mesh, in_specs=in_spec, out_specs=out_spec, check_vma=False)
    x = jax.ShapeDtypeStruct((64, 256), jnp.float32, sharding=NamedSharding(mesh, in_spec))
    return jax.jit(on_devices).lower(x).compile()


def psum(x, axes=AXES):
    return jnp.sin(jax.lax.psum(x, axes))


def all_gather(x, axes=AXES):
    return jax.lax.all_gather(x, axes, tiled=True)


def psum_scatter(x, axes=AXES):
    return jax.lax.psum_scatter(x, axes, tiled=True)


def ppermute(x):
    return jnp.sin(jax.lax.ppermute(x, AXES, RING))


def gather_and_scatter(x):
    return psum_scatter(jnp.sin(all_gather(x)))


def all_to_all(x):
    return jax.lax.all_to_all(x, AXES, 0, 0, tiled=True)


def repeat(f, times):
    return lambda x: jax.lax.fori_loop(0, times, lambda _, x: f(x), x)


def scan(f, times):
    return lambda x: jax.lax.scan(lambda x, _: (f(x), x.sum()), x, length=times)[0]


def facts(compiled):
    return [(one.kind, one.times, one.bytes, one.group, one.sent) for one in collectives(compiled)]


# With n devices and operands of b bytes, a device sends:
#   all-gather (n-1)·b, reduce-scatter (n-1)/n·b, all-reduce 2·(n-1)/n·b, all-to-all (n-1)/n·b, collective-permute b.
@pytest.mark.parametrize(
    ('f', 'in_spec', 'out_spec', 'kind', 'size', 'sends'),
    [
        (psum, SPLIT, WHOLE, 'all-reduce', PART, 2 * 7 * PART // 8),
        (all_gather, SPLIT, WHOLE, 'all-gather', PART, 7 * PART),
        (psum_scatter, WHOLE, SPLIT, 'reduce-scatter', 8 * PART, 7 * PART),
        (ppermute, SPLIT, SPLIT, 'collective-permute', PART, PART),
        (all_to_all, WHOLE, SPLIT, 'all-to-all', 8 * PART, 7 * PART),
    ],
)
def test_each_collective_sends_what_a_ring_sends(f, in_spec, out_spec, kind, size, sends):
    compiled = program(f, in_spec, out_spec)
    assert facts(compiled) == [(kind, 1, size, 8, sends)]
    assert sent(compiled) == sends


@pytest.mark.parametrize(
    ('f', 'kind', 'size', 'group', 'sends'),
    [
        (functools.partial(psum, axes='data'), 'all-reduce', PART, 4, 2 * 3 * PART // 4),
        (functools.partial(psum, axes='fsdp'), 'all-reduce', PART, 2, PART),
        (functools.partial(all_gather, axes='data'), 'all-gather', PART, 4, 3 * PART),
        (functools.partial(all_gather, axes='fsdp'), 'all-gather', PART, 2, PART),
    ],
)
def test_along_one_axis_only_its_devices_take_part(f, kind, size, group, sends):
    assert facts(program(f, SPLIT, WHOLE)) == [(kind, 1, size, group, sends)]


@pytest.mark.parametrize('loop', [repeat, scan])
def test_a_collective_in_a_loop_runs_as_often_as_the_loop(loop):
    assert facts(program(loop(psum, 5))) == [('all-reduce', 5, PART, 8, 2 * 7 * PART // 8)]
    assert facts(program(loop(ppermute, 5))) == [('collective-permute', 5, PART, 8, PART)]
    compiled = program(loop(gather_and_scatter, 5))
    assert facts(compiled) == [('all-gather', 5, PART, 8, 7 * PART), ('reduce-scatter', 5, 8 * PART, 8, 7 * PART)]
    assert sent(compiled) == 5 * (7 * PART + 7 * PART)


def test_nested_loops_multiply():
    compiled = program(repeat(lambda x: 2 * scan(ppermute, 3)(x), 5))
    assert facts(compiled) == [('collective-permute', 15, PART, 8, PART)]


def test_collectives_that_the_partitioner_makes_are_counted():
    mesh = make_mesh(data=4, fsdp=2)
    x = jax.ShapeDtypeStruct((64, 256), jnp.float32, sharding=rows(mesh))
    compiled = jax.jit(jnp.sin, out_shardings=replicated(mesh)).lower(x).compile()
    assert facts(compiled) == [('all-gather', 1, PART, 8, 7 * PART)]


def test_a_collective_names_its_jax_operation():
    assert collectives(program(all_gather, SPLIT, WHOLE))[0].source.endswith('/all_gather')


def test_every_branch_of_a_conditional_is_counted():
    compiled = program(lambda x: jax.lax.cond(x[0, 0] > 0, ppermute, psum, x))
    assert sorted(kind for kind, *_ in facts(compiled)) == ['all-reduce', 'collective-permute']


def test_a_device_that_sends_only_to_itself_sends_nothing():
    assert facts(program(lambda x: jax.lax.ppermute(x, AXES, [(0, 0), (1, 2)]))) == [
        ('collective-permute', 1, PART, 1, PART)
    ]
    assert sent(HEADER + entry('x = f32[4]{0} collective-permute(%p), source_target_pairs={{0,0},{1,1}}')) == 0


def test_a_loop_with_collectives_and_an_unknown_trip_count_is_refused_by_name():
    def until_large(f):
        return program(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 3, f, x))

    with pytest.raises(ValueError, match=r'%while\S* jit.*/while: its trip count is unknown'):
        collectives(until_large(psum))
    assert collectives(until_large(jnp.exp)) == []


def test_memory_is_that_of_one_device():
    mesh = make_mesh(data=4, fsdp=2)
    x = jax.ShapeDtypeStruct((64, 256), jnp.float32, sharding=rows(mesh))
    kept = memory(jax.jit(jnp.sin).lower(x).compile())
    assert kept == (PART, PART, 0, kept.temporary, None)
    donated = memory(jax.jit(jnp.sin, donate_argnums=0).lower(x).compile())
    assert donated.aliased == PART


def test_a_program_needs_its_peak():
    assert Memory(arguments=50, outputs=40, aliased=30, temporary=7, peak=60).needed == 60


def test_a_program_without_a_known_peak_needs_all_its_parts():
    assert Memory(arguments=50, outputs=40, aliased=30, temporary=7, peak=None).needed == 67


def test_the_compiler_counts_operations_per_device_with_a_loop_once():
    def product(x):
        return x @ x.T @ x

    rows, columns = 64 // 8, 256
    once = 2 * 2 * rows * rows * columns
    assert flops(program(product)) == pytest.approx(once, rel=0.02)
    assert flops(program(repeat(product, 5))) == pytest.approx(once, rel=0.02)


# From here on: HLO as a TPU's compiler writes it, shortened.

HEADER = 'HloModule jit_f, is_scheduled=true, num_partitions=8\n\n'


def entry(*lines):
    return computation('ENTRY %main', 'p = f32[4]{0:T(128)} parameter(0)', *lines)


def computation(name, *lines):
    """A computation whose last line is the result."""
    body = [f'  %{line}' for line in lines[:-1]] + [f'  ROOT %{lines[-1]}']
    return '\n'.join([f'{name} (p: f32[4]) -> f32[4] {{', *body, '}', '', ''])


@pytest.mark.parametrize(
    ('groups', 'size'),
    [
        ('{{0,1},{2,3},{4,5},{6,7}}', 2),
        ('{{0,2,4,6},{1,3,5,7}}', 4),
        ('{}', 8),
        ('[2,4]<=[8]', 4),
        ('[4,2]<=[2,4]T(1,0)', 2),
        ("mesh['axis_0'=8] {'axis_0'}", 8),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}", 2),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}", 8),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", 4),
    ],
)
def test_all_forms_of_groups_are_read(groups, size):
    text = HEADER + entry(
        f'x = f32[4]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, '
        'use_global_device_ids=true, to_apply=%add, metadata={op_name="psum"}'
    )
    assert collectives(text) == [Collective('all-reduce', 1, 16, size, 'psum')]


def test_groups_of_an_unknown_form_are_refused():
    with pytest.raises(ValueError, match='%x: replica_groups have an unknown form'):
        collectives(HEADER + entry("x = f32[4]{0} all-reduce(%p), replica_groups=mesh['a'=8] {'b'}"))


def test_a_collective_without_a_formula_is_refused():
    with pytest.raises(ValueError, match='%x: what a ragged-all-to-all sends is unknown'):
        collectives(HEADER + entry('x = f32[4]{0} ragged-all-to-all(%p), replica_groups={}'))


@pytest.mark.parametrize(
    ('shape', 'size'),
    [
        ('bf16[16,128]{1,0:T(8,128)(2,1)S(1)}', 16 * 128 * 2),
        ('f32[]{:T(128)}', 4),
        ('pred[7,85]{1,0:T(8,128)(4,1)}', 7 * 85),
        ('f8e4m3fn[3]{0}', 3),
        ('s4[3]{0}', 2),
        ('(f32[4]{0:T(128)}, /*index=1*/bf16[2]{0}, token[])', 20),
    ],
)
def test_bytes_are_those_of_the_operands_without_padding(shape, size):
    text = HEADER + entry(f'q = {shape} copy(%p)', 'x = f32[4]{0} all-gather(%q), replica_groups={}')
    assert [one.bytes for one in collectives(text)] == [size]


def test_an_asynchronous_collective_counts_once():
    text = HEADER + entry(
        's = (f32[4]{0:T(128)}, f32[4]{0:T(128)S(1)}, u32[]{:S(2)}) collective-permute-start(%p), channel_id=1, '
        'source_target_pairs={{0,1},{1,2},{2,0}}, backend_config={"flag_configs":[]}',
        'd = f32[4]{0:T(128)S(1)} collective-permute-done(%s)',
    )
    assert facts(text) == [('collective-permute', 1, 16, 3, 16)]


def test_a_collective_of_several_arrays_counts_their_sum():
    text = HEADER + entry(
        'q = bf16[8,2]{1,0:T(8,128)(2,1)} parameter(1)',
        'x = (f32[4]{0}, /*index=1*/bf16[8,2]{1,0:T(8,128)(2,1)}) all-reduce(%p, /*index=1*/%q), replica_groups={}',
    )
    assert facts(text) == [('all-reduce', 1, 16 + 32, 8, 2 * 7 * 48 // 8)]


def test_an_asynchronous_computation_counts_once():
    text = (
        HEADER
        + computation('%async', 'p = f32[4]{0} parameter(0)', 'x = f32[32]{0} all-gather(%p), replica_groups={}')
        + entry(
            's = ((f32[4]{0}), f32[32]{0}, u32[]) async-start(%p), calls=%async',
            'u = ((f32[4]{0}), f32[32]{0}, u32[]) async-update(%s), calls=%async',
            'd = f32[32]{0} async-done(%u), calls=%async',
        )
    )
    assert facts(text) == [('all-gather', 1, 16, 8, 7 * 16)]


def test_an_all_gather_that_other_fusions_overlap_counts_once():
    gather = 'all-gather(%p), channel_id=12, replica_groups={}, frontend_attributes={chain_id="0"}'
    text = (
        HEADER
        + computation(
            '%starts',
            'p = f32[4]{0} parameter(0)',
            f'x = f32[32]{{0}} {gather}',
            's = (f32[4]{0}, f32[32]{0}, u32[]{:S(2)}) custom-call(%x), custom_call_target="AsyncCollectiveStart"',
        )
        + computation('%async_collective_fusion.1', 'p = f32[4]{0} parameter(0)', f'x = f32[32]{{0}} {gather}')
        + computation(
            '%is_done',
            'p = f32[4]{0} parameter(0)',
            f'x = f32[32]{{0}} {gather}',
            'd = f32[32]{0} custom-call(%p, %x), custom_call_target="AsyncCollectiveDone"',
        )
        + entry(
            'a = (f32[4]{0}, f32[32]{0}, u32[]{:S(2)}) fusion(%p), kind=kCustom, calls=%starts',
            'b = f32[32]{0} fusion(%a), kind=kOutput, calls=%async_collective_fusion.1',
            'c = f32[32]{0} fusion(%b), kind=kCustom, calls=%is_done',
        )
    )
    assert facts(text) == [('all-gather', 1, 16, 8, 7 * 16)]


def test_an_all_reduce_that_each_device_slices_is_a_reduce_scatter():
    text = (
        HEADER
        + computation(
            '%all-reduce-scatter.1.clone',
            'p = f32[32]{0} parameter(0)',
            'x = f32[32]{0} all-reduce(%p), replica_groups={}, to_apply=%add',
            'y = f32[4]{0} dynamic-slice(%x, %i), dynamic_slice_sizes={4}',
        )
        + entry('x = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1.clone')
    )
    assert facts(text) == [('reduce-scatter', 1, 128, 8, 7 * 16)]


@pytest.mark.parametrize(
    ('start', 'step', 'limit', 'direction', 'times'),
    [(0, 1, 5, 'LT', 5), (1, 2, 8, 'LT', 4), (3, 1, 3, 'LT', 0), (0, 1, 5, 'NE', None), (0, -1, 5, 'LT', None)],
)
def test_the_trip_count_of_a_loop_follows_from_its_counter(start, step, limit, direction, times):
    carried = '(s32[]{:T(128)}, f32[4]{0:T(128)})'
    text = (
        HEADER
        + computation(
            '%body.sunk',
            f'one = s32[]{{:T(128)}} constant({step})',
            f'p = {carried} parameter(0)',
            'i = s32[]{:T(128)} get-tuple-element(%p), index=0',
            'c = s32[]{:T(128)S(6)} copy(%i)',
            'next = s32[]{:T(128)} add(%c, %one)',
            'v = f32[4]{0:T(128)} get-tuple-element(%p), index=1',
            'x = f32[4]{0:T(128)} all-reduce(%v), replica_groups={}, to_apply=%add',
            f't = {carried} tuple(%next, %x)',
        )
        + computation(
            '%condition',
            f'n = s32[]{{:T(128)}} constant({limit})',
            f'p = {carried} parameter(0)',
            'i = s32[]{:T(128)} get-tuple-element(%p), index=0',
            f'less = pred[]{{:T(512)}} compare(%i, %n), direction={direction}',
        )
        + entry(
            f'zero = s32[]{{:T(128)}} constant({start})',
            'copy.8 = s32[]{:T(128)} copy(%zero)',
            f't = {carried} tuple(%copy.8, %p)',
            f'while.1 = {carried} while(%t), condition=%condition, body=%body.sunk, metadata={{op_name="f/while"}}',
        )
    )
    if times is None:
        with pytest.raises(ValueError, match=r'%while\.1 f/while: its trip count is unknown'):
            collectives(text)
    else:
        assert facts(text) == [('all-reduce', times, 16, 8, 2 * 7 * 2)]


def test_text_that_is_not_a_compiled_program_is_refused():
    with pytest.raises(ValueError, match='no ENTRY computation found'):
        collectives('module @jit_f {}')


# With libtpu: its compiler.


@pytest.mark.parametrize('topology', ['v5e:2x4', 'v6e:2x4'])
def test_a_tpu_program_is_counted_like_a_cpu_program(topology):
    pytest.importorskip('libtpu')
    mesh = pod_mesh(topology, fsdp=2)
    f = repeat(lambda x: scan(gather_and_scatter, 3)(ppermute(x)), 5)
    compiled = program(f, mesh=mesh)
    assert sorted(facts(compiled)) == sorted(facts(program(f)))
    assert sent(compiled) == 5 * PART + 15 * (7 * PART + 7 * PART)
    assert memory(compiled).peak > 0
