"""Meshes of accelerators that need not exist. Most of these tests need libtpu."""

import importlib.util

import pytest
from jax.experimental import topologies

from tests.compile_for.conftest import GIB
from uwe_jax.compile_for.topology import pod_mesh, usable_memory
from uwe_jax.distributed.mesh import AXES, make_mesh


@pytest.mark.parametrize(
    ('topology', 'shape'),
    [
        ('v5e:2x4', (2, 4)),
        ('v5e:8x8', (16, 4)),
        ('v5e:16x16', (64, 4)),
        ('v6e:2x4', (2, 4)),
        ('v6e:16x16', (64, 4)),
        ('v5p:2x2x2', (2, 4)),
    ],
)
def test_a_pod_that_does_not_exist_has_a_mesh(topology, shape):
    pytest.importorskip('libtpu')
    assert dict(pod_mesh(topology, fsdp=4).shape) == dict(zip(AXES, shape, strict=True))


def test_a_mesh_that_splits_an_axis_of_the_torus_has_each_device_once():
    pytest.importorskip('libtpu')
    devices = pod_mesh('v6e:16x16', fsdp=4).devices
    assert len(set(devices.flat)) == 256
    # The devices of a row are neighbours along one axis of the torus.
    for row in devices:
        assert {len({device.coords[axis] for device in row}) for axis in (0, 1)} == {1, 4}


def test_a_topology_without_a_mesh_is_refused():
    pytest.importorskip('libtpu')
    with pytest.raises(ValueError, match=r"topology 'v4:2x2x1': JAX makes no mesh of it"):
        pod_mesh('v4:2x2x1')


@pytest.mark.parametrize('topology', ['v5e', 'v5e:3x5', 'v9:2x4'])
def test_an_unknown_topology_is_refused(topology):
    pytest.importorskip('libtpu')
    with pytest.raises(ValueError, match=f"topology '{topology}': .* expected for example v5e:16x16"):
        pod_mesh(topology)


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is not None, reason='libtpu is installed')
def test_without_libtpu_the_error_says_what_to_install():
    with pytest.raises(ValueError, match=r"pip install -c constraints\.txt -e '\.\[tpu\]'"):
        pod_mesh('v5e:2x4')


@pytest.mark.skipif(importlib.util.find_spec('jax_cuda13_plugin') is not None, reason='the CUDA plugin is installed')
def test_without_the_cuda_plugin_the_error_says_what_to_install():
    with pytest.raises(ValueError, match=r"pip install -c constraints\.txt -e '\.\[cuda\]'"):
        pod_mesh('h100:8')


@pytest.mark.parametrize('topology', ['h100', 'h100:', 'h100:0', 'h100:2x', 'h100:2x2x2'])
def test_gpus_are_named_by_hosts_and_gpus_per_host(topology):
    with pytest.raises(ValueError, match=f"topology '{topology}', expected h100:GPUS or h100:HOSTSxGPUS"):
        pod_mesh(topology)


@pytest.mark.parametrize(('topology', 'gib'), [('v5e:2x4', 15.75), ('v6e:2x4', 31.25), ('v5p:2x2x1', 95.74)])
def test_the_compiler_for_a_tpu_names_its_memory(topology, gib):
    pytest.importorskip('libtpu')
    assert usable_memory(pod_mesh(topology).devices.flat[0]) == pytest.approx(gib * GIB, rel=0.001)


def test_slices_of_a_tpu_follow_each_other_along_data():
    pytest.importorskip('libtpu')
    pod_mesh('v5e:4x4')  # sets the variables that libtpu reads
    devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:4x4', num_slices=2).devices
    arrangement = make_mesh(fsdp=4, devices=devices).devices
    assert arrangement.shape == (8, 4)
    assert [{device.slice_index for device in row} for row in arrangement] == 4 * [{0}] + 4 * [{1}]
    with pytest.raises(ValueError, match=r'mesh\.data: 1, expected a multiple of the 2 slices'):
        make_mesh(data=1, fsdp=32, devices=devices)
