"""The forms of late interaction: what each device computes with the rows that it has."""

import dataclasses
import functools
from types import ModuleType
from typing import Literal, get_args

import jax
from absl import logging

from uwe_jax.interaction import blockwise, gpu, tpu
from uwe_jax.interaction.blockwise import ACCELERATOR_ENTRIES, CPU_ENTRIES
from uwe_jax.interaction.score import Score

Name = Literal['reference', 'blockwise', 'kernel']
FORMS: tuple[str, ...] = get_args(Name)


@dataclasses.dataclass(frozen=True)
class Form:
    """A form other than the reference, as two functions. Hashable, so it may be a static argument.

    The kernel form is a Pallas kernel on TPUs and on GPUs. For a shape, dtype or platform that no kernel supports it
    says so in the log and the blockwise form runs.

    Attributes:
      name: blockwise or kernel.
      score: what a score is.
      entries: pairs of tokens that a block of the blockwise form holds at most; 0 takes the platform's number.
      platform: of the devices, as JAX names it: cpu, gpu, cuda, tpu.
    """

    name: str
    score: Score
    entries: int
    platform: str

    def scores(self, q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array) -> tuple[jax.Array, ...]:
        """Equals `reference.scores`."""
        kernel = self._kernel(q, y)
        if kernel is tpu:
            return tpu.scores(q, q_mask, y, y_mask, self.score)
        block = {'block_scores': kernel.block_scores} if kernel else {}
        return blockwise.scores(q, q_mask, y, y_mask, self.score, entries=self._entries, **block)

    def gradients(
        self, q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array, g_over_y: jax.Array, g_over_q: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What `scores` passes back to q and y: [B_q, L_q, d], [B_y, L_y, d] float32."""
        kernel = self._kernel(q, y)
        if kernel is tpu:
            return tpu.gradients(q, q_mask, y, y_mask, g_over_y, g_over_q, self.score)
        block = {'block_gradient': kernel.block_gradient} if kernel else {}
        return blockwise.gradients(q, q_mask, y, y_mask, g_over_y, g_over_q, self.score, entries=self._entries, **block)

    @property
    def _entries(self) -> int:
        return self.entries or (CPU_ENTRIES if self.platform == 'cpu' else ACCELERATOR_ENTRIES)

    def _kernel(self, q: jax.Array, y: jax.Array) -> ModuleType | None:
        """The kernel's module, or None where the blockwise form runs."""
        if self.name != 'kernel':
            return None
        module = {'tpu': tpu, 'gpu': gpu, 'cuda': gpu}.get(self.platform)
        reason = module.supports(q.shape, y.shape, q.dtype, self.score) if module else f'none for {self.platform}'
        if reason:
            _say_once(f'interaction.form kernel: {reason}; the blockwise form runs')
            return None
        return module


@functools.cache
def _say_once(message: str) -> None:
    logging.warning('%s', message)
