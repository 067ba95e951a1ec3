"""The floating-point operations that a compiled training step executes, by formula: with padding and recomputation."""

from collections.abc import Mapping

import numpy as np

from uwe_jax.data.packed_plan import ROW
from uwe_jax.interaction import Score
from uwe_jax.models.mpnet import MPNetConfig
from uwe_jax.training import flops


def step_flops(
    sizes: MPNetConfig,
    score: Score,
    form: str,
    *,
    rows: int,
    twice: bool,
    batch_size: int,
    lengths: Mapping[str, int],
) -> dict[str, float]:
    """The operations of one training step on all devices together, for `encoder` and `interaction`.

    Args:
      sizes, score: as in `training.flops`.
      form: one of `interaction.FORMS`. The reference stores R; the others compute it again in the backward pass.
      rows: of `ROW` tokens, for the encoder; every pair of them counts, as texts beside each other are masked, not
        skipped.
      twice: whether the backward pass computes the activations again.
      batch_size: texts per side.
      lengths: the tokens that the texts of each side are padded to for the interaction.
    """
    padded = {side: np.full(batch_size, length) for side, length in lengths.items()}
    encoder = flops.WITH_BACKWARD * flops.encoder_flops(sizes, np.full(rows, ROW))
    interaction = flops.step_flops(sizes, score, padded)['interaction']
    again = form != 'reference' and score.kind != 'mean' and score.target != 'mean'
    return {
        'encoder': encoder * (1 + twice / flops.WITH_BACKWARD),
        'interaction': interaction * (1 + again / flops.WITH_BACKWARD),
    }
