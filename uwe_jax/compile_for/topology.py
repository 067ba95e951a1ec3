"""Accelerators that need not exist: a mesh of them to compile for on any machine, and the memory that each has.

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
    # libtpu asks the cloud's metadata server about its machine, and complains, unless these say it. The type need not
    # be that of the topology. Its lock protects a TPU from other processes; compiling uses no TPU.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    # The CUDA plugin compiles without a GPU and without NVIDIA's libraries; this keeps it from looking for them.
    'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1',
}

# XLA's description of the GPU; where there is one, XLA asks the driver.
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

JAX_SHARE = 0.75  # of a GPU's memory: what JAX takes for arrays unless XLA_PYTHON_CLIENT_MEM_FRACTION changes it
PROBE = 2**42  # bytes; more than any chip has


def pod_mesh(topology: str, data: int = -1, fsdp: int = 1) -> Mesh:
    """Makes the mesh that `mesh.make_mesh` would make on a topology's devices.

    Programs can be lowered and compiled for it, but not run. Start the process with JAX_PLATFORMS=cpu, or JAX looks
    for an accelerator of this machine.

    Args:
      topology: a TPU and its shape in chips, such as v5e:16x16, v6e:2x4 or v5p:2x2x2; or h100:GPUS, h100:HOSTSxGPUS.
      data: devices along `data`, or -1 for all devices / `fsdp`.
      fsdp: devices along `fsdp`.

    Raises:
      ValueError: libtpu or JAX's CUDA plugin is not installed or does not know the topology, or `data` x `fsdp` is
        not the number of its devices.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    devices = _gpus(topology) if topology.startswith('h100') else _tpus(topology)
    try:
        return mesh.make_mesh(data, fsdp, devices)
    except AssertionError as error:  # for a v4, whose chips are described as two devices each
        raise ValueError(f'topology {topology!r}: JAX makes no mesh of it: {error}') from error


def _tpus(topology: str) -> list[Any]:
    try:
        return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f'topology {topology!r}: {error}; expected for example v5e:16x16, v5p:2x2x2 or h100:8'
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f'topology {topology!r}: {error}. Compiling for a TPU needs libtpu, but no TPU: '
            "pip install -c constraints.txt -e '.[tpu]'"
        ) from error


def _gpus(topology: str) -> list[Any]:
    match = re.fullmatch(r'h100:(?:([1-9]\d*)x)?([1-9]\d*)', topology)
    if not match:
        raise ValueError(
            f'topology {topology!r}, expected h100:GPUS or h100:HOSTSxGPUS, for example h100:8 or h100:2x8'
        )
    try:
        return topologies.get_topology_desc(
            platform='cuda', topology=f'1x{match[1] or 1}x{match[2]}', target_config=H100
        ).devices
    except RuntimeError as error:
        raise ValueError(
            f"topology {topology!r}: {error}. Compiling for a GPU needs JAX's CUDA plugin, but no GPU: "
            "pip install -c constraints.txt -e '.[cuda]'"
        ) from error


def usable_memory(device: Any) -> int:
    """Bytes of a device's memory that a program may use.

    For a TPU, the compiler names them when it refuses a program that is too large; for a GPU, they are the share of
    the described `device_memory_size` that JAX takes for arrays.

    Args:
      device: a device of `pod_mesh`.

    Raises:
      ValueError: the device is neither TPU nor GPU, or the compiler does not name its memory.
    """
    if device.platform == 'gpu':
        return int(JAX_SHARE * H100_MEMORY)
    if device.platform != 'tpu':
        raise ValueError(f'{device}: its memory is unknown, expected a TPU or GPU of pod_mesh')
    side = math.isqrt(PROBE)
    too_large = jax.ShapeDtypeStruct((side, side), jnp.int8, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(jnp.negative).lower(too_large).compile()
    except jax.errors.JaxRuntimeError as error:
        if match := re.search(r'available HBM \(([\d.]+)G\)|of ([\d.]+)G hbm', str(error)):
            return int(float(match[1] or match[2]) * 2**30)
        raise ValueError(f"{device.device_kind}: its memory is not in the compiler's message: {error}") from error
    raise ValueError(f'{device.device_kind}: a program with {PROBE} bytes compiled, expected the compiler to refuse it')
