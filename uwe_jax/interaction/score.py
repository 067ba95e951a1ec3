"""What a score is: every choice that the paper leaves open or ablates, in one value."""

import dataclasses
from typing import Literal, get_args, get_type_hints

import jax
import jax.numpy as jnp

MASKED = -1e30  # added to the logits of tokens that take no part


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


def fold_mask(x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mask as two numbers a token, with which a kernel needs no selection, and no NaN can arise.

    A token that takes no part has the inverse norm 0, so that all of its cosines are 0, and its logits are lowered by
    so much that a softmax over its side gives it no weight. A text masked whole has uniform weights on cosines of 0.

    Args:
      x: [B, L, d] token embeddings.
      mask: [B, L] bool; the tokens that take part.

    Returns:
      The inverse norms and what is added to the logits: [B, L] float32 each.
    """
    return jnp.where(mask, inverse_norm(x), 0.0), jnp.where(mask, 0.0, MASKED)


def through_norms(x: jax.Array, products: jax.Array, dc_c: jax.Array) -> jax.Array:
    """The gradient of embeddings from dR's products, and from Σ dC C of each token, by which the norms pass back.

    Args:
      x: [B, L, d] the embeddings.
      products: [B, L, d] float32; dR·E of the other side.
      dc_c: [B, L] float32.

    Returns:
      [B, L, d] float32.
    """
    return products - (dc_c * inverse_norm(x) ** 2)[..., None] * x.astype(jnp.float32)
