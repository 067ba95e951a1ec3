"""The floating-point operations that a compiled training step executes, by formula: with padding and recomputation."""

from collections.abc import Mapping

import numpy as np

from uwe_jax.interaction import Score
from uwe_jax.models.mpnet import MPNetConfig
from uwe_jax.training import flops


def step_flops(
    sizes: MPNetConfig, score: Score, form: str, batch_size: int, lengths: Mapping[str, int], *, remat: bool = False
) -> dict[str, float]:
    """The operations of one training step on all devices together, for `encoder` and `interaction`.

    Args:
      sizes, score: as in `training.flops`.
      form: one of `interaction.FORMS`. The reference stores R; the others compute it again in the backward pass.
      batch_size: texts per side.
      lengths: the padded length of each side, in tokens.
      remat: whether the backward pass computes each layer again.
    """
    padded = {side: np.full(batch_size, length) for side, length in lengths.items()}
    needed = flops.step_flops(sizes, score, padded)
    again = form != 'reference' and score.kind != 'mean' and score.target != 'mean'
    return {
        'encoder': needed['encoder'] * (1 + remat / flops.WITH_BACKWARD),
        'interaction': needed['interaction'] * (1 + again / flops.WITH_BACKWARD),
    }
