"""One of the processes that compute the loss and gradients of one batch together; the first writes them to a file."""

import pathlib
import sys

import jax
import numpy as np

from tests.interaction.inputs import batch, loss_and_gradients
from uwe_jax.distributed import mesh
from uwe_jax.distributed.processes import join_processes
from uwe_jax.interaction import EXCHANGES

if __name__ == '__main__':
    output = pathlib.Path(sys.argv[1])
    join_processes(output.parent)
    results = {
        f'{exchange}/{name}': value
        for exchange in EXCHANGES
        for name, value in loss_and_gradients(*batch(), mesh.make_mesh(fsdp=2), exchange=exchange).items()
    }
    if jax.process_index() == 0:
        np.savez(output, **results)
