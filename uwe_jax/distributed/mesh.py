"""The device mesh and how arrays lie on it.

Two axes: `data` and `fsdp`. Rows of a batch are split over both; parameters and the optimizer's state over `fsdp`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ('data', 'fsdp')


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Lays devices out on the two axes; slices of a TPU are put one after another along `data`.

    Args:
      data: devices along `data`, or -1 for all that `fsdp` leaves.
      fsdp: devices along `fsdp`.
      devices: by default all of all processes.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or `data` not to that of the slices.
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
    # A torus of 16 x 16 has no axis of 4: make one of a part of an axis.
    within, split = (data // slices, fsdp), {'allow_split_physical_axes': True}
    if slices == 1:
        laid_out = mesh_utils.create_device_mesh(within, devices, **split)
    else:
        laid_out = mesh_utils.create_hybrid_device_mesh(within, (slices, 1), devices, **split)
    return Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def rows(mesh: Mesh) -> NamedSharding:
    """The first axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Refuses a batch that the mesh cannot split evenly.

    Raises:
      ValueError: as said.
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
