"""Many-to-many InfoNCE over the device-global batch (paper, section 3.3).

Plain jnp on global arrays: under jit, XLA's partitioner adds the reductions across devices, and every mean divides by a
global count. The loss does not know which form of late interaction the scores come from.
"""

import dataclasses
from typing import Literal, NamedTuple, get_args, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Scalar


@no_type_check  # by beartype: the checks in __post_init__ name the field and the choices
@dataclasses.dataclass(frozen=True)
class InfoNCE:
    """The choices that the loss leaves open. Hashable, so it may be a static argument.

    Attributes:
      denominator: for a positive y⁺, the softmax runs over `all` candidates (SupCon's L_out), or over y⁺ and the
        `negatives` alone.
      positives: every edge of the `graph` within the batch, or only the `sampled` edge (plain InfoNCE). The other edges
        are then neither positives nor negatives.
      directions: `both` L(Y|Q) + L(Q|Y), or `forward` L(Y|Q) alone.

    Raises:
      ValueError: a field has a value that is not listed above.
    """

    denominator: Literal['all', 'negatives'] = 'all'
    positives: Literal['graph', 'sampled'] = 'graph'
    directions: Literal['both', 'forward'] = 'both'

    def __post_init__(self):
        for field in dataclasses.fields(InfoNCE):
            value, choices = getattr(self, field.name), get_args(field.type)
            if value not in choices:
                raise ValueError(f'loss.{field.name}: {value!r}, expected one of {", ".join(choices)}')


class Direction(NamedTuple):
    """The loss in one direction, with diagnostics.

    Attributes:
      loss: L(Y|Q).
      accuracy: accuracy@1, over the rows that have a positive: the share whose best candidate is a positive.
      positives: mean number of positives of these rows.
      masked: share of the score matrix's entries that are not candidates.
    """

    loss: Scalar
    accuracy: Scalar
    positives: Scalar
    masked: Scalar


def many_to_many_info_nce(
    s_qy: Float[Array, 'q_slots y_slots'],
    s_yq: Float[Array, 'q_slots y_slots'],
    edges: Bool[Array, 'q_slots y_slots'],
    q_filled: Bool[Array, ' q_slots'],
    y_filled: Bool[Array, ' y_slots'],
    temperature: float,
    choices: InfoNCE,
) -> dict[str, Direction]:
    """The loss of one bipartite graph (paper, section 3.3), by direction; their sum is L(Q, Y) = L(Y|Q) + L(Q|Y).

        L(Y|Q) = mean over q with P(q) ≠ ∅ of mean over y⁺ ∈ P(q) of -log softmax_y(sim(q, ·) / τ)[y⁺]

    P(q) holds every y in the batch that the graph joins to q, whether or not that edge was sampled.

    Each direction has its own matrix: the rows of L(Y|Q) are those of sim(q, y), and the rows of L(Q|Y) the columns of
    sim(y, q). Here q are skills. As published (`score.attend=target`), a skill's tokens attend in L(Y|Q) and the other
    texts' tokens in L(Q|Y); `query` exchanges them. With `both` and `from_skill` the two matrices are the same.

    Two skills and two titles: both skills are joined to the first title, so that the softmax of a skill's row is
    e / (e + 1) or 1 / (e + 1), and forward the loss is -(log 0.731 + log 0.269) / 2.

        >>> import jax.numpy as jnp
        >>> from uwe_jax.loss import InfoNCE, many_to_many_info_nce
        >>> scores = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> edges = jnp.array([[True, False], [True, False]])
        >>> filled = jnp.array([True, True])
        >>> loss = many_to_many_info_nce(scores, scores, edges, filled, filled, temperature=1.0, choices=InfoNCE())
        >>> print(loss['forward'].loss.round(3), loss['forward'].accuracy, loss['forward'].positives)
        0.813 0.5 1.0

    Args:
      s_qy: sim(q, y).
      s_yq: sim(y, q), also indexed [q, y].
      edges: the pairs that the graph joins. Slot i of both sides holds the edge that was sampled.
      q_filled, y_filled: False for an empty slot, which is neither positive nor negative.
      temperature: τ.
      choices: what the loss leaves open.

    Returns:
      `forward`, L(Y|Q), and `backward`, L(Q|Y), unless `choices.directions` is `forward`.
    """
    pair = q_filled[:, None] & y_filled
    joined = edges & pair
    positive = joined & jnp.eye(*joined.shape, dtype=bool) if choices.positives == 'sampled' else joined
    candidate = pair & (positive | ~joined)
    directions = {'forward': _direction(s_qy / temperature, positive, candidate, choices.denominator)}
    if choices.directions == 'both':
        directions['backward'] = _direction(s_yq.T / temperature, positive.T, candidate.T, choices.denominator)
    return directions


def _direction(
    logits: Float[Array, 'rows columns'],
    positive: Bool[Array, 'rows columns'],
    candidate: Bool[Array, 'rows columns'],
    denominator: str,
) -> Direction:
    """One direction: a softmax over the columns of every row."""
    # A finite stand-in for -inf, so that the gradient of a row without candidates is 0 rather than NaN.
    lowest = jnp.finfo(logits.dtype).min / 4
    in_softmax = candidate if denominator == 'all' else candidate & ~positive
    log_others = jax.nn.logsumexp(jnp.where(in_softmax, logits, lowest), axis=1, keepdims=True)
    log_softmax = logits - (log_others if denominator == 'all' else jnp.logaddexp(log_others, logits))

    count = positive.sum(axis=1)
    rows = jnp.maximum(jnp.sum(count > 0), 1)
    of_row = -jnp.sum(jnp.where(positive, log_softmax, 0.0), axis=1) / jnp.maximum(count, 1)
    best = jnp.argmax(jnp.where(candidate, logits, lowest), axis=1)
    hit = jnp.take_along_axis(positive, best[:, None], axis=1)[:, 0]
    return Direction(
        loss=jnp.sum(of_row) / rows,
        accuracy=jnp.sum(hit) / rows,
        positives=jnp.sum(count) / rows,
        masked=1.0 - jnp.mean(candidate, dtype=jnp.float32),
    )
