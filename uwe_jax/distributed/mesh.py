"""The device mesh and how arrays lie on it.

It has two axes, `data` and `fsdp`. Rows of a batch are split over both; parameters and optimizer state over `fsdp`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ('data', 'fsdp')


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges devices along the two axes; the slices of a TPU follow each other along `data`.

    Args:
      data: devices along `data`, or -1 for all devices / `fsdp`.
      fsdp: devices along `fsdp`.
      devices: by default, all devices of all processes.

    Raises:
      ValueError: `data` x `fsdp` is not the number of devices, or `data` is not a multiple of the slices.
    """
    devices = devices or jax.devices()
    count = len(devices)
    if fsdp < 1 or count % fsdp:
        raise ValueError(f'mesh.fsdp: {fsdp}, expected a divisor of the {count} devices')
    if data == -1:
        data = count // fsdp
    if data * fsdp != count:
        raise ValueError(f'mesh: data {data} x fsdp {fsdp}, but there are {count} devices')
    is_tpu = devices[0].platform == 'tpu'
    slices = len({getattr(device, 'slice_index', 0) for device in devices}) if is_tpu else 1
    if data % slices:
        raise ValueError(f'mesh.data: {data}, expected a multiple of the {slices} slices')
    # A torus of 16 x 16 has no axis of 4; one is cut from an axis of 16.
    within, split = (data // slices, fsdp), {'allow_split_physical_axes': True}
    if slices == 1:
        arrangement = mesh_utils.create_device_mesh(within, devices, **split)
    else:
        arrangement = mesh_utils.create_hybrid_device_mesh(within, (slices, 1), devices, **split)
    return Mesh(arrangement, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def rows(mesh: Mesh) -> NamedSharding:
    """Splits the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def columns(mesh: Mesh) -> NamedSharding:
    """Splits the second axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Refuses a batch that the mesh cannot split evenly.

    Raises:
      ValueError: the batch size is not a multiple of the number of devices.
    """
    if batch_size % mesh.size:
        raise ValueError(
            f'data.batch_size: {batch_size}, expected a multiple of the {mesh.size} devices '
            f'(mesh {dict(zip(mesh.axis_names, mesh.devices.shape, strict=True))})'
        )


def put(tree, shardings):
    """Places host arrays, the same in every process, on the mesh; each device receives only its part."""
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_callback(np.shape(x), sharding, lambda index: np.asarray(x)[index]),
        tree,
        shardings,
    )
