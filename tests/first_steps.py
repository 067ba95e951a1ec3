"""Loss and gradient of the first steps, in a test's own process or in one of two: python -m tests.first_steps DIR.

DIR holds `config.json`; the first process leaves `gradient.npz` and `metrics.json` there.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
from flax import nnx

from uwe_jax.data.graph import open_dataset
from uwe_jax.data.loader import batches
from uwe_jax.distributed import mesh
from uwe_jax.distributed.processes import join_processes
from uwe_jax.models import pretrained
from uwe_jax.training.config import Config
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.state import abstract_state, first_state
from uwe_jax.training.step import make_step


def first_steps(config, device_mesh, steps=1):
    """The metrics of the first steps on a mesh, and the gradient of the first one as a list of arrays."""
    dataset, base = open_dataset(config.data.dir), pathlib.Path(config.init)
    optimizer, schedule = make_optimizer(config.optimizer, config.steps)
    graphdef, params = nnx.split(pretrained.abstract_encoder(base, **dataclasses.asdict(config.model)))
    like = abstract_state(params, optimizer, device_mesh)
    state = first_state(pretrained.load_params(base, params), optimizer, config.seed, like)
    packed = config.packed_plan(dataset, device_mesh.size)
    take_step = make_step(graphdef, optimizer, schedule, config, packed.lengths, packed.chunks, device_mesh, like)
    lines, gradient = [], None
    for batch in batches(dataset, packed, mesh.rows(device_mesh), range(steps), 0):
        state, metrics = take_step(state, batch)
        lines.append({name: float(value) for name, value in metrics.items()})
        # AdamW's first moment after one step is 0.1 times the gradient.
        gradient = gradient or [np.asarray(leaf) for leaf in jax.tree.leaves(state.opt_state[1][0].mu)]
    return lines, gradient


def main(folder):
    join_processes(folder)
    config = Config.of(json.loads((folder / 'config.json').read_text()))
    [metrics], gradient = first_steps(config, mesh.make_mesh())
    if jax.process_index() == 0:
        np.savez(folder / 'gradient.npz', *gradient)
        (folder / 'metrics.json').write_text(json.dumps(metrics))


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
