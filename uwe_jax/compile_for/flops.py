"""How many floating-point operations a training step takes, by formula; a multiplication and an addition are two.

What is counted are the matrix products, of padding too, as the devices make them. What works element by element (norms,
softmax, gelu, dropout, the loss, the optimizer) is not: with the base model's sizes, about a hundredth of the sum.
"""

from collections.abc import Mapping

from uwe_jax.data.graph import GRAPHS, SIDES
from uwe_jax.interaction import Score
from uwe_jax.models.mpnet import MPNetConfig


def encoder_flops(sizes: MPNetConfig, texts: int, tokens: int, *, remat: bool = False) -> int:
    """Of encoding texts and of passing gradients back, which takes two products for each of the forward pass.

    Args:
      sizes: the encoder's.
      texts: how many.
      tokens: of each, padding included.
      remat: whether each layer is computed once more in the backward pass.
    """
    d, inner = sizes.hidden_size, sizes.intermediate_size
    projections = 2 * tokens * (4 * d * d + 2 * d * inner)  # q, k, v and o; into the feed-forward and out of it
    attention = 2 * tokens * tokens * 2 * d  # the logits, and the mix of values
    return (4 if remat else 3) * texts * sizes.num_hidden_layers * (projections + attention)


def interaction_flops(
    score: Score, form: str, width: int, queries: int, q_tokens: int, targets: int, y_tokens: int
) -> int:
    """Of scoring all queries against all targets in both directions, and of passing gradients back.

    Args:
      score: what a score is.
      form: of `interaction.FORMS`. The reference stores R; the others make it again in the backward pass.
      width: numbers an embedding.
      queries, targets: how many.
      q_tokens, y_tokens: of each, padding included.
    """
    if score.kind == 'mean':  # one product of pooled texts for both directions, and two in the backward pass
        return 3 * 2 * queries * targets * width
    if score.target == 'mean':  # the tokens of either side against the other's pooled texts
        return 3 * 2 * queries * targets * (q_tokens + y_tokens) * width
    products = 3 if form == 'reference' else 4
    return products * 2 * queries * q_tokens * targets * y_tokens * width


def step_flops(
    sizes: MPNetConfig, score: Score, form: str, batch_size: int, lengths: Mapping[str, int], *, remat: bool = False
) -> dict[str, int]:
    """Of one training step on all devices together, by `encoder` and `interaction`.

    Args:
      sizes, score, form, remat: as above.
      batch_size: texts a side.
      lengths: by side; the padded length.
    """
    return {
        'encoder': sum(encoder_flops(sizes, batch_size, lengths[side], remat=remat) for side in SIDES),
        'interaction': sum(
            interaction_flops(score, form, sizes.hidden_size, batch_size, lengths['skill'], batch_size, lengths[graph])
            for graph in GRAPHS
        ),
    }
