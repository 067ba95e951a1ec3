"""The very training step, compiled from shapes alone: nothing is allocated, and the devices need not be there.

rehearsal = Rehearsal(config, download.fetch(config.init), lengths, device_mesh, usable_memory(device))
rehearsal.trial(512).memory.peak, largest(lambda rows: not rehearsal.trial(rows * devices).refusal, start=1)
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.stages import Compiled

from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.flops import step_flops
from uwe_jax.data.graph import GRAPHS
from uwe_jax.data.loader import Batch, Texts
from uwe_jax.distributed import mesh
from uwe_jax.models import pretrained
from uwe_jax.models.mpnet import MPNetConfig
from uwe_jax.training.config import Config
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.state import abstract_state, shardings_of
from uwe_jax.training.step import make_step

PARTS = 8  # a search ends within an eighth of what it looks for: each trial is a compilation, a minute or so


@dataclasses.dataclass(frozen=True)
class Trial:
    """The step compiled with one batch size.

    Attributes:
      batch_size: skills in the global batch.
      program: what was compiled; None where the compiler refused it for its size.
      memory: what a device holds; None where the compiler refused the program.
      refusal: why it does not fit; '' where it does.
    """

    batch_size: int
    program: Compiled | None
    memory: compiled.Memory | None
    refusal: str


class Rehearsal:
    """A config's training step on a mesh, with any batch size.

    Args:
      config: see `configs/uwe.py`; its `data.batch_size` is of no account here.
      base: a directory whose `config.json` tells the encoder's sizes.
      lengths: by side; the padded length.
      device_mesh: of devices that are there, or of `topology.pod_mesh`.
      usable: bytes of a device's memory that the program may use.

    Attributes:
      devices: of the mesh.
      usable: as given.

    Raises:
      ValueError: the config asks for what there is not.
    """

    def __init__(self, config: Config, base: pathlib.Path, lengths: Mapping[str, int], device_mesh: Mesh, usable: int):
        optimizer, schedule = make_optimizer(config.optimizer, config.steps)
        graphdef, params = nnx.split(pretrained.abstract_encoder(base, **dataclasses.asdict(config.model)))
        self._state = abstract_state(params, optimizer, device_mesh)
        self._step: Any = make_step(graphdef, optimizer, schedule, config, device_mesh, shardings_of(self._state))
        sizes = MPNetConfig.read(base / 'config.json')
        self._sizes = dataclasses.replace(sizes, num_hidden_layers=config.model.layers or sizes.num_hidden_layers)
        self._config, self._lengths, self._mesh = config, lengths, device_mesh
        self.devices, self.usable = device_mesh.size, usable

    def trial(self, batch_size: int) -> Trial:
        """Compiles the step.

        Raises:
          ValueError: the mesh cannot split the batch.
          jax.errors.JaxRuntimeError: the compiler refused the program for another reason than its size.
        """
        mesh.check_divides(batch_size, self._mesh)
        try:
            program = self._step.lower(self._state, self._batch(batch_size)).compile()
        except jax.errors.JaxRuntimeError as error:
            if not ('RESOURCE_EXHAUSTED' in str(error) and 'hbm' in str(error).lower()):  # else it is on-chip memory
                raise
            return Trial(batch_size, None, None, str(error).splitlines()[0])
        # The compiler for TPUs refuses what is too large; the one for GPUs leaves that to whoever runs the program.
        memory = compiled.memory(program)
        refusal = f'needs {memory.needed / 2**30:.2f} GiB' if memory.needed > self.usable else ''
        return Trial(batch_size, program, memory, refusal)

    def arguments(self, batch_size: int) -> dict[str, int]:
        """Bytes a device of what goes into the step: its part of the parameters, optimizer state and batch."""
        return {
            'parameters': _bytes_a_device(self._state.params),
            'optimizer state': _bytes_a_device(self._state.opt_state),
            'batch': _bytes_a_device(self._batch(batch_size)),
        }

    def flops(self, batch_size: int) -> dict[str, float]:
        """A device's floating-point operations in one step by formula, of the `encoder` and of the `interaction`."""
        total = step_flops(
            self._sizes,
            self._config.score,
            self._config.interaction.form,
            batch_size,
            self._lengths,
            remat=self._config.model.remat,
        )
        return {part: flops / self.devices for part, flops in total.items()}

    def _batch(self, batch_size: int) -> Batch:
        """The shapes of a batch."""

        def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=mesh.rows(self._mesh))

        return Batch(
            {side: Texts(array(jnp.int32, length), array(jnp.int32)) for side, length in self._lengths.items()},
            {graph: array(jnp.bool, batch_size) for graph in GRAPHS},
        )


def _bytes_a_device(tree: Any) -> int:
    """Of arrays that lie as their shardings say; the padding that tiles add is not counted."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def largest(fits: Callable[[int], bool], start: int) -> tuple[int, int]:
    """Looks for the largest number that fits, near a guess: walks to the edge in steps that double, then halves.

    Where a number does not fit, no larger one is thought to.

    Args:
      fits: is asked at most once for each number; has to refuse some number.
      start: the guess, 1 or above. If it is right, two numbers are asked for.

    Returns:
      The largest that was tried and fits, 0 if none does, and the smallest that was tried and does not. They are next
      to each other, or at most an eighth apart.
    """
    fitting, refused, number, step = 0, None, start, max(1, start // PARTS)
    while refused is None or refused - fitting > max(1, fitting // PARTS):
        if fits(number):
            fitting = number
        else:
            refused = number
        if refused is None:
            number += step
        elif fitting == 0:
            number = max(refused - step, refused // 2)
        else:
            number = (fitting + refused) // 2
        step *= 2
    return fitting, refused
