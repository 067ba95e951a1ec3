"""Accelerators that are not there: a mesh of them to compile for, from any machine, and the memory that each has.

shapes = abstract_state(params, optimizer, pod_mesh('v5e:16x16', fsdp=8))
"""

import math
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from uwe_jax.distributed import mesh

ENVIRONMENT = {
    # What libtpu wants to know of the machine that it is on: not told, it asks the cloud's metadata server, and
    # complains. The type need not be that of the topology. Its lock is for those who share a TPU; compiling uses none.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    # The CUDA plugin compiles without a GPU and without NVIDIA's libraries, but looks for them unless told not to.
    'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1',
}

# XLA's own description of the GPU, which it asks of the driver where there is one.
H100_MEMORY = 84_942_979_072
H100 = f"""
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132
  device_memory_size: {H100_MEMORY}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
"""

JAX_SHARE = 0.75  # of a GPU's memory; what JAX takes for arrays unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise
PROBE = 2**42  # bytes; more than any chip has


def pod_mesh(topology: str, data: int = -1, fsdp: int = 1) -> Mesh:
    """Lays the devices of a topology out on the two axes, as `mesh.make_mesh` does where they are.

    Programs can be lowered and compiled for such a mesh, and not run. The process itself runs on its CPU: start it with
    JAX_PLATFORMS=cpu, or it looks for an accelerator of its own.

    Args:
      topology: a TPU and its shape in chips, such as v5e:16x16, v6e:2x4 or v5p:2x2x2; or h100:GPUS, h100:HOSTSxGPUS.
      data: devices along `data`, or -1 for all that `fsdp` leaves.
      fsdp: devices along `fsdp`.

    Raises:
      ValueError: libtpu or JAX's CUDA plugin is not installed or does not know the topology, or the axes do not
        multiply to its devices.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    devices = _gpus(topology) if topology.startswith('h100') else _tpus(topology)
    try:
        return mesh.make_mesh(data, fsdp, devices)
    except AssertionError as error:  # of a v4, whose chips are described as two devices each
        raise ValueError(f'topology {topology!r}: JAX lays out no mesh of it: {error}') from error


def _tpus(topology: str) -> list[Any]:
    try:
        return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f'topology {topology!r}: {error}; expected for example v5e:16x16, v5p:2x2x2 or h100:8'
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f'topology {topology!r}: {error}. Compiling for a TPU needs libtpu, and no TPU: '
            "pip install -c constraints.txt -e '.[tpu]'"
        ) from error


def _gpus(topology: str) -> list[Any]:
    found = re.fullmatch(r'h100:(?:([1-9]\d*)x)?([1-9]\d*)', topology)
    if not found:
        raise ValueError(
            f'topology {topology!r}, expected h100:GPUS or h100:HOSTSxGPUS, for example h100:8 or h100:2x8'
        )
    try:
        return topologies.get_topology_desc(
            platform='cuda', topology=f'1x{found[1] or 1}x{found[2]}', target_config=H100
        ).devices
    except RuntimeError as error:
        raise ValueError(
            f"topology {topology!r}: {error}. Compiling for a GPU needs JAX's CUDA plugin, and no GPU: "
            "pip install -c constraints.txt -e '.[cuda]'"
        ) from error


def usable_memory(device: Any) -> int:
    """Bytes of a device's memory that a program may use.

    Of a TPU, what its compiler itself says when it refuses a program that is too large; of a GPU, the part of the
    description's `device_memory_size` that JAX takes for arrays.

    Args:
      device: one of `pod_mesh`'s.

    Raises:
      ValueError: it is of another kind, or the compiler does not say.
    """
    if device.platform == 'gpu':
        return int(JAX_SHARE * H100_MEMORY)
    if device.platform != 'tpu':
        raise ValueError(f'{device}: its memory is not known, expected a TPU or a GPU of pod_mesh')
    side = math.isqrt(PROBE)
    too_large = jax.ShapeDtypeStruct((side, side), jnp.int8, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(jnp.negative).lower(too_large).compile()
    except jax.errors.JaxRuntimeError as error:
        if found := re.search(r'available HBM \(([\d.]+)G\)|of ([\d.]+)G hbm', str(error)):
            return int(float(found[1] or found[2]) * 2**30)
        raise ValueError(f"{device.device_kind}: its memory is not in the compiler's message: {error}") from error
    raise ValueError(f'{device.device_kind}: a program with {PROBE} bytes compiled, expected the compiler to refuse it')
