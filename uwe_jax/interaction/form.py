"""The forms of late interaction: what each device computes with the rows that it has."""

import dataclasses
import functools
import logging
from types import ModuleType

import jax

from uwe_jax.interaction import blockwise, gpu, tpu
from uwe_jax.interaction.blockwise import ACCELERATOR_ENTRIES, CPU_ENTRIES
from uwe_jax.interaction.score import Score, attending_tokens

logger = logging.getLogger(__name__)


FORMS = ('reference', 'blockwise', 'kernel')


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

    def scores(self, q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The sums of `reference.scores`, reduced as the score says: [B_q, B_y] float32 each.

        They are reduced here, so that a device that gets targets block by block needs no copy of whole score rows.
        """
        kernel = self._kernel(q, y)
        if kernel is tpu:
            over_y, over_q = tpu.scores(q, q_mask, y, y_mask, self.score)
        else:
            block = {'block_scores': kernel.block_scores} if kernel else {}
            over_y, over_q = blockwise.scores(q, q_mask, y, y_mask, self.score, entries=self._entries(kernel), **block)
        return over_y / attending_tokens(q_mask, self.score)[:, None], over_q / attending_tokens(y_mask, self.score)

    def gradients(
        self, q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array, g_over_y: jax.Array, g_over_q: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What `scores` passes back to q and y: [B_q, L_q, d], [B_y, L_y, d] float32."""
        g_over_y = g_over_y / attending_tokens(q_mask, self.score)[:, None]
        g_over_q = g_over_q / attending_tokens(y_mask, self.score)
        given = q, q_mask, y, y_mask, g_over_y, g_over_q, self.score
        kernel = self._kernel(q, y)
        if kernel is tpu:
            return tpu.gradients(*given)
        block = {'block_gradient': kernel.block_gradient} if kernel else {}
        return blockwise.gradients(*given, entries=self._entries(kernel), **block)

    def _entries(self, kernel: ModuleType | None) -> int:
        own = gpu.BLOCK_ENTRIES if kernel is gpu else ACCELERATOR_ENTRIES
        return self.entries or (CPU_ENTRIES if self.platform == 'cpu' else own)

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
    logger.warning('%s', message)
