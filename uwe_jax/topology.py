"""A mesh of TPUs that are not there, to compile for a pod from any machine.

shapes = abstract_state(params, optimizer, pod_mesh('v5e:16x16', fsdp=8))
"""

import os

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from uwe_jax import mesh

# What libtpu wants to know of the machine that it is on: not told, it asks the cloud's metadata server, and complains.
# The type need not be that of the topology. Its lock is for those who share a TPU; compiling uses none.
ENVIRONMENT = {
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}


def pod_mesh(topology: str, data: int = -1, fsdp: int = 1) -> Mesh:
    """Lays the devices of a TPU topology out on the two axes, as `mesh.make_mesh` does on the pod itself.

    Programs can be lowered and compiled for such a mesh, and not run. The process itself runs on its CPU: start it with
    JAX_PLATFORMS=cpu, or it looks for a TPU of its own.

    Args:
      topology: a TPU and its shape, such as v5e:16x16, v6e:2x4 or v5p:2x2x2.
      data: devices along `data`, or -1 for all that `fsdp` leaves.
      fsdp: devices along `fsdp`.

    Raises:
      ValueError: libtpu is not installed or does not know the topology, or the axes do not multiply to its devices.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        devices = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f'topology {topology!r}: {error}; expected for example v5e:16x16 or v5p:2x2x2') from error
    except RuntimeError as error:
        raise ValueError(
            f"topology {topology!r}: {error}. Compiling for a TPU needs libtpu, and no TPU: pip install -e '.[tpu]'"
        ) from error
    return mesh.make_mesh(data, fsdp, devices)
