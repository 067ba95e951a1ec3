"""What a score is: every choice that the paper leaves open or ablates, in one value."""

import dataclasses
from typing import Literal, get_args, get_type_hints

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Score:
    """The score sim(q, y) of a query and a target (paper, section 3.2). Hashable, so it may be a static argument.

    Attributes:
      kind: `soft` late interaction; `maxsim`, each attending token's largest cosine (ColBERT); or `mean`, the cosine of
        the mean-pooled texts.
      temperature: τ_a of the softmax over tokens. Towards 0 it picks the token with the largest product.
      reduce: `mean` over the attending tokens, which keeps scores within [-1, 1], or their `sum`.
      attend: the side over whose tokens the softmax runs: the `target`'s, or the `query`'s.
      target: the target's `tokens`, or their `mean` as its only vector. With one vector there is nothing to choose
        among, so that the softmax then always runs over the target.
      special_tokens: whether <s> and </s> take part.

    Raises:
      ValueError: a field has none of its values.
    """

    kind: Literal['soft', 'maxsim', 'mean'] = 'soft'
    temperature: float = 0.1
    reduce: Literal['mean', 'sum'] = 'mean'
    attend: Literal['target', 'query'] = 'target'
    target: Literal['tokens', 'mean'] = 'tokens'
    special_tokens: bool = True

    def __post_init__(self):
        for name, hint in get_type_hints(Score).items():
            allowed = get_args(hint)
            if allowed and getattr(self, name) not in allowed:
                raise ValueError(f'score.{name}: {getattr(self, name)!r}, expected one of {", ".join(allowed)}')
        if not self.temperature > 0:
            raise ValueError(f'score.temperature: {self.temperature}, expected a number above 0')


def participating(length: jax.Array, tokens: int, special_tokens: bool) -> jax.Array:
    """Which token positions take part in a score.

    Args:
      length: [B] int32; tokens of each text, <s> and </s> included; 0 for no text.
      tokens: L, the padded length.
      special_tokens: whether the first and the last token take part.

    Returns:
      [B, L] bool.
    """
    position = jnp.arange(tokens)
    if special_tokens:
        return position < length[:, None]
    return (position > 0) & (position < length[:, None] - 1)


def widen(x: jax.Array) -> jax.Array:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def inverse_norm(x: jax.Array) -> jax.Array:
    """1 / |x| over the last axis, and 0 with zero gradient where x vanishes: [..., d] -> [...], in float32 at least."""
    x = widen(x)
    squared = jnp.sum(x * x, axis=-1)
    vanishes = squared < 1e-30
    return jnp.where(vanishes, 0.0, jax.lax.rsqrt(jnp.where(vanishes, 1.0, squared)))


def attending_tokens(mask: jax.Array, score: Score) -> jax.Array:
    """What a text's sum over its attending tokens is divided by: their number, or 1: [B, L] bool -> [B] int32."""
    return jnp.maximum(mask.sum(axis=1), 1) if score.reduce == 'mean' else jnp.ones(len(mask), jnp.int32)
