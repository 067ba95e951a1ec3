"""The forms of late interaction: what each device computes on its rows."""

import dataclasses
import functools
import logging

from jaxtyping import Array, Bool, Float, Float32

from uwe_jax.interaction import blockwise, tpu
from uwe_jax.interaction.blockwise import ACCELERATOR_ENTRIES, CPU_ENTRIES
from uwe_jax.interaction.score import Score, attending_tokens

logger = logging.getLogger(__name__)


FORMS = ('reference', 'blockwise', 'kernel')


@dataclasses.dataclass(frozen=True)
class Form:
    """A form other than the reference, as two functions. Hashable, so it may be a static argument.

    The kernel form is a Pallas kernel on TPUs. Where it does not support the shape, dtype or platform, a warning is
    logged and the blockwise form runs.

    Attributes:
      name: `blockwise` or `kernel`.
      score: the kind of score and its settings.
      entries: pairs of tokens per block; 0 takes the default of the platform.
      platform: of the devices, as JAX names it: cpu, gpu or tpu.
    """

    name: str
    score: Score
    entries: int
    platform: str

    def scores(
        self,
        q: Float[Array, 'q_texts q_tokens d'],
        q_mask: Bool[Array, 'q_texts q_tokens'],
        y: Float[Array, 'y_texts y_tokens d'],
        y_mask: Bool[Array, 'y_texts y_tokens'],
    ) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
        """The sums of `reference.scores`, divided as `score.reduce` says.

        The division is here so that a device that gets its targets block by block needs no copy of its score rows.
        """
        if self._has_kernel(q, y):
            over_y, over_q = tpu.scores(q, q_mask, y, y_mask, self.score)
        else:
            over_y, over_q = blockwise.scores(q, q_mask, y, y_mask, self.score, entries=self._entries())
        return over_y / attending_tokens(q_mask, self.score)[:, None], over_q / attending_tokens(y_mask, self.score)

    def gradients(
        self,
        q: Float[Array, 'q_texts q_tokens d'],
        q_mask: Bool[Array, 'q_texts q_tokens'],
        y: Float[Array, 'y_texts y_tokens d'],
        y_mask: Bool[Array, 'y_texts y_tokens'],
        g_over_y: Float32[Array, 'q_texts y_texts'],
        g_over_q: Float32[Array, 'q_texts y_texts'],
    ) -> tuple[Float32[Array, 'q_texts q_tokens d'], Float32[Array, 'y_texts y_tokens d']]:
        """The gradients dq and dy of `scores`, from the cotangents of its results."""
        g_over_y = g_over_y / attending_tokens(q_mask, self.score)[:, None]
        g_over_q = g_over_q / attending_tokens(y_mask, self.score)
        inputs = q, q_mask, y, y_mask, g_over_y, g_over_q, self.score
        if self._has_kernel(q, y):
            return tpu.gradients(*inputs)
        return blockwise.gradients(*inputs, entries=self._entries())

    def _entries(self) -> int:
        return self.entries or (CPU_ENTRIES if self.platform == 'cpu' else ACCELERATOR_ENTRIES)

    def _has_kernel(self, q: Array, y: Array) -> bool:
        if self.name != 'kernel':
            return False
        on_tpus = self.platform == 'tpu'
        reason = tpu.supports(q.shape, y.shape, q.dtype, self.score) if on_tpus else f'none for {self.platform}'
        if reason:
            _warn_once(f'interaction.form kernel: {reason}; the blockwise form runs')
        return reason is None


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning('%s', message)
