"""Many-to-many InfoNCE over the device-global batch (paper, section 3.3).

Plain jnp on global arrays: under jit the partitioner makes the reductions across devices, and every mean divides by a
global count. Which form of late interaction made the scores is not known here.
"""

import dataclasses
from typing import Literal, NamedTuple, get_args, get_type_hints

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class InfoNCE:
    """The choices that the loss leaves open. Hashable, so it may be a static argument.

    Attributes:
      denominator: for a positive y⁺, the softmax runs over `all` candidates (SupCon's L_out), or over y⁺ and the
        `negatives` alone.
      positives: every edge of the `graph` within the batch, or the `sampled` edge alone (plain InfoNCE). The other
        edges are then neither positives nor negatives.
      directions: `both` L(Y|Q) + L(Q|Y), or `forward` L(Y|Q) alone.

    Raises:
      ValueError: a field has none of its values.
    """

    denominator: Literal['all', 'negatives'] = 'all'
    positives: Literal['graph', 'sampled'] = 'graph'
    directions: Literal['both', 'forward'] = 'both'

    def __post_init__(self):
        for name, hint in get_type_hints(InfoNCE).items():
            if getattr(self, name) not in get_args(hint):
                raise ValueError(f'loss.{name}: {getattr(self, name)!r}, expected one of {", ".join(get_args(hint))}')


class Direction(NamedTuple):
    """One direction's loss, and what tells whether it learns. All scalars, float32.

    Attributes:
      loss: L(Y|Q).
      accuracy: share of the rows with a positive whose best candidate is one.
      positives: mean number of positives of such a row.
      masked: share of the score matrix that is no candidate.
    """

    loss: jax.Array
    accuracy: jax.Array
    positives: jax.Array
    masked: jax.Array


def many_to_many_info_nce(
    s_qy: jax.Array,
    s_yq: jax.Array,
    edges: jax.Array,
    q_filled: jax.Array,
    y_filled: jax.Array,
    temperature: float,
    choices: InfoNCE,
) -> dict[str, Direction]:
    """The loss of one bipartite graph; sum `loss` over the directions to get L(Q, Y).

        L(Y|Q) = mean over q with P(q) ≠ ∅ of mean over y⁺ ∈ P(q) of -log softmax_y(sim(q, ·) / τ)[y⁺]

    Args:
      s_qy: [B_q, B_y] float32; sim(q, y).
      s_yq: [B_q, B_y] float32; sim(y, q), indexed [q, y] as well.
      edges: [B_q, B_y] bool; the pairs that the graph joins. Slot i of both sides holds the edge that was sampled.
      q_filled, y_filled: [B_q], [B_y] bool; False for an empty slot, which is neither positive nor negative.
      temperature: τ.
      choices: what the loss leaves open.

    Returns:
      By direction: `forward` L(Y|Q), and `backward` L(Q|Y) unless only the forward one is asked for.
    """
    pair = q_filled[:, None] & y_filled
    joined = edges & pair
    positive = joined & jnp.eye(*joined.shape, dtype=bool) if choices.positives == 'sampled' else joined
    candidate = pair & (positive | ~joined)
    directions = {'forward': _direction(s_qy / temperature, positive, candidate, choices.denominator)}
    if choices.directions == 'both':
        directions['backward'] = _direction(s_yq.T / temperature, positive.T, candidate.T, choices.denominator)
    return directions


def _direction(logits: jax.Array, positive: jax.Array, candidate: jax.Array, denominator: str) -> Direction:
    """One direction: [rows, columns] each, a softmax over the columns of every row."""
    # A finite stand-in for -inf: the gradient of a row without candidates is then 0 rather than NaN.
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
