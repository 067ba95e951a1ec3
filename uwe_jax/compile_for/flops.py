"""The floating-point operations of a training step, by formula; a multiplication and an addition are two.

Only matrix products count, with their padding. Elementwise work (norms, softmax, gelu, dropout, the loss, the
optimizer) does not; with the base model's sizes it is about a hundredth of the sum.
"""

from collections.abc import Mapping

from uwe_jax.data.graph import GRAPHS, SIDES
from uwe_jax.interaction import Score
from uwe_jax.models.mpnet import MPNetConfig


def encoder_flops(sizes: MPNetConfig, texts: int, tokens: int, *, remat: bool = False) -> int:
    """The operations of encoding texts, with the backward pass, which makes two products for each forward product.

    Args:
      sizes: of the encoder.
      texts: how many there are.
      tokens: per text, padding included.
      remat: whether the backward pass computes each layer again.
    """
    d, inner = sizes.hidden_size, sizes.intermediate_size
    projections = 2 * tokens * (4 * d * d + 2 * d * inner)  # q, k, v and o; both layers of the feed-forward block
    attention = 2 * tokens * tokens * 2 * d  # the logits, and the weighted values
    return (4 if remat else 3) * texts * sizes.num_hidden_layers * (projections + attention)


def interaction_flops(
    score: Score, form: str, width: int, queries: int, q_tokens: int, targets: int, y_tokens: int
) -> int:
    """The operations of scoring all queries against all targets in both directions, with the backward pass.

    Args:
      score: the scoring function.
      form: one of `interaction.FORMS`. The reference stores R; the others compute it again in the backward pass.
      width: the dimension of an embedding.
      queries, targets: how many there are.
      q_tokens, y_tokens: per text, padding included.
    """
    if score.kind == 'mean':  # pooled texts: one product for both directions, and two in the backward pass
        return 3 * 2 * queries * targets * width
    if score.target == 'mean':  # the tokens of each side against the pooled texts of the other
        return 3 * 2 * queries * targets * (q_tokens + y_tokens) * width
    products = 3 if form == 'reference' else 4
    return products * 2 * queries * q_tokens * targets * y_tokens * width


def step_flops(
    sizes: MPNetConfig, score: Score, form: str, batch_size: int, lengths: Mapping[str, int], *, remat: bool = False
) -> dict[str, int]:
    """The operations of one training step on all devices together, for `encoder` and `interaction`.

    Args:
      sizes, score, form, remat: as above.
      batch_size: texts per side.
      lengths: the padded length of each side, in tokens.
    """
    return {
        'encoder': sum(encoder_flops(sizes, batch_size, lengths[side], remat=remat) for side in SIDES),
        'interaction': sum(
            interaction_flops(score, form, sizes.hidden_size, batch_size, lengths['skill'], batch_size, lengths[graph])
            for graph in GRAPHS
        ),
    }
