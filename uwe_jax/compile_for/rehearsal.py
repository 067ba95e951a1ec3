"""The training step compiled from shapes alone: nothing is allocated, and the devices need not exist.

base = download.fetch(config.init, [download.CONFIG])
rehearsal = Rehearsal(config, base, tokens_of(config), device_mesh, usable_memory(device))
rehearsal.trial(512).memory.peak
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.stages import Compiled, Lowered

from uwe_jax.compile_for import compiled
from uwe_jax.compile_for.flops import step_flops
from uwe_jax.data.graph import GRAPHS, SIDES, open_dataset
from uwe_jax.data.loader import Batch, Texts
from uwe_jax.data.packed_plan import ROW, choose_lengths, in_chunks
from uwe_jax.data.packing import Rows
from uwe_jax.distributed import mesh
from uwe_jax.models import pretrained
from uwe_jax.training.config import Config
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.state import abstract_state
from uwe_jax.training.step import make_step

# ESCO 1.2.0 with SkillSkape's sentences: what data prep cuts texts to, and the mean tokens of a text that
# is there, over planned batches of 4,096 skills with distractors at 0.8.
ESCO_LENGTHS = {'skill': 16, 'job': 16, 'sentence': 64, 'alternative': 16}
ESCO_MEANS = {'skill': 6.13, 'job': 5.54, 'sentence': 56.7, 'alternative': 6.63}

PACKED = 0.99  # the share of the rows' tokens that these texts fill


class Tokens(NamedTuple):
    """How long texts are.

    Attributes:
      longest: by side, the tokens that texts are cut to.
      per_slot: tokens of the rows for each skill and its three targets.
    """

    longest: Mapping[str, int]
    per_slot: float


def tokens_of(config: Config) -> Tokens:
    """How long the texts of the config's dataset are; without a dataset, those of ESCO 1.2.0."""
    if config.data.dir is None:
        longest = choose_lengths(ESCO_LENGTHS, config.data.length)
        return Tokens(longest, sum(min(ESCO_MEANS[side], longest[side]) for side in SIDES) / PACKED)
    dataset = open_dataset(config.data.dir)
    plan = config.packed_plan(dataset, devices=1)
    return Tokens(plan.lengths, plan.room * ROW / plan.batch_size)


@dataclasses.dataclass(frozen=True)
class Trial:
    """The step compiled with one batch size.

    Attributes:
      batch_size: skills in the global batch.
      program: the compiled step; None if the compiler refused it for its size.
      memory: what a device holds; None if the compiler refused the program.
      refusal: why it does not fit; '' if it does.
    """

    batch_size: int
    program: Compiled | None
    memory: compiled.Memory | None
    refusal: str

    @property
    def peak(self) -> str:
        """The peak per device in GiB, as text; '-' if the compiler refused the program."""
        return f'{self.memory.needed / 2**30:.2f}' if self.memory else '-'


def compile_trial(lowered: Lowered, batch_size: int, usable: int) -> Trial:
    """Compiles a lowered step, and checks whether it fits into `usable` bytes per device.

    Raises:
      jax.errors.JaxRuntimeError: the compiler refused the program for a reason other than its size.
    """
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not ('RESOURCE_EXHAUSTED' in str(error) and 'hbm' in str(error).lower()):  # else it is on-chip memory
            raise
        return Trial(batch_size, None, None, str(error).splitlines()[0])
    # The compiler for TPUs refuses programs that are too large; the one for GPUs does not.
    memory = compiled.memory(program)
    refusal = f'needs {memory.needed / 2**30:.2f} GiB' if memory.needed > usable else ''
    return Trial(batch_size, program, memory, refusal)


class Rehearsal:
    """A config's training step on a mesh, for any batch size.

    Args:
      config: the experiment; its `data.batch_size` is ignored.
      base: a directory whose `config.json` holds the encoder's sizes.
      tokens: how long the texts are.
      device_mesh: real devices, or the result of `topology.pod_mesh`.
      usable: bytes of a device's memory that the program may use.

    Attributes:
      devices: how many devices the mesh has.
      usable: the argument.

    Raises:
      ValueError: the config asks for something that does not exist.
    """

    def __init__(self, config: Config, base: pathlib.Path, tokens: Tokens, device_mesh: Mesh, usable: int):
        self._optimizer, self._schedule = make_optimizer(config.optimizer, config.steps)
        encoder = pretrained.abstract_encoder(base, **dataclasses.asdict(config.model))
        self._graphdef, params = nnx.split(encoder)
        self._state = abstract_state(params, self._optimizer, device_mesh)
        self._sizes = encoder.config
        self._config, self._tokens, self._mesh = config, tokens, device_mesh
        self.devices, self.usable = device_mesh.size, usable

    def rows(self, batch_size: int) -> tuple[int, int]:
        """Rows per device, and in how many chunks a device encodes them."""
        rows = math.ceil(batch_size / self.devices * self._tokens.per_slot / ROW)
        return in_chunks(rows, self._config.run.rows_at_once)

    def trial(self, batch_size: int) -> Trial:
        """Compiles the step; raises what `lower` and `compile_trial` raise."""
        return compile_trial(self.lower(batch_size), batch_size, self.usable)

    def lower(self, batch_size: int) -> Lowered:
        """Lowers the step.

        Raises:
          ValueError: the mesh cannot split the batch evenly.
        """
        mesh.check_divides(batch_size, self._mesh)
        step: Any = make_step(
            self._graphdef,
            self._optimizer,
            self._schedule,
            self._config,
            self._tokens.longest,
            self.rows(batch_size)[1],
            self._mesh,
            self._state,
        )
        return step.lower(self._state, self._batch(batch_size))

    def arguments(self, batch_size: int) -> dict[str, int]:
        """Bytes per device of the step's arguments: its share of the parameters, optimizer state and batch."""
        return {
            'parameters': _bytes_per_device(self._state.params),
            'optimizer state': _bytes_per_device(self._state.opt_state),
            'batch': _bytes_per_device(self._batch(batch_size)),
        }

    def flops(self, batch_size: int) -> dict[str, float]:
        """Floating-point operations per device and step by formula, for `encoder` and `interaction`."""
        rows, chunks = self.rows(batch_size)
        total = step_flops(
            self._sizes,
            self._config.score,
            self._config.interaction.form,
            rows=self.devices * rows,
            twice=chunks > 1,
            batch_size=batch_size,
            lengths=self._tokens.longest,
        )
        return {part: flops / self.devices for part, flops in total.items()}

    def _batch(self, batch_size: int) -> Batch:
        """The shapes of a batch."""

        def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=mesh.rows(self._mesh))

        slots, rows = array(jnp.int32, batch_size), self.devices * self.rows(batch_size)[0]
        return Batch(
            rows=Rows(*[array(jnp.int32, rows, ROW)] * 3),
            texts=dict.fromkeys(SIDES, Texts(slots, slots)),
            edges=dict.fromkeys(GRAPHS, array(jnp.bool, batch_size, batch_size)),
            left_out=slots,
        )


def _bytes_per_device(tree: Any) -> int:
    """The size of a device's shards; a TPU's tiles pad them, which is not counted."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
