"""What a score is: every choice that the paper leaves open or ablates, in one value."""

import dataclasses
from typing import Literal, TypeAlias, get_args, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped

MASKED = -1e30  # added to the logits of masked tokens
Side: TypeAlias = Literal['query', 'target']


@no_type_check  # by beartype: the checks in __post_init__ name the field and the choices
@dataclasses.dataclass(frozen=True)
class Score:
    """The score sim(q, y) of a query and a target (paper, section 3.2). Hashable, so it may be a static argument.

    Attributes:
      kind: `soft` late interaction; `maxsim`, each attending token's largest cosine (ColBERT); or `mean`, the cosine of
        the mean-pooled texts.
      temperature: τ_a of the softmax over tokens. Towards 0 it picks the token with the largest product.
      reduce: `mean` over the attending tokens, which keeps scores within [-1, 1], or their `sum`.
      attend: whose tokens attend to whose; the softmax runs over the tokens of the text that is attended to.
        `target`, as published, and the default here: the query's tokens attend to the target's.
        `query`: the target's tokens attend to the query's.
        `both`: the mean of these two, so that sim(q, y) = sim(y, q). The default of `configs/uwe.py`, and of models
        that name no score.
        `from_skill`: the skill's tokens attend to the other text's, in both directions of ranking and of the loss. It
        is `target` where the queries are skills and `query` where the targets are; see `facing`.
      target: the target's `tokens`, or their `mean` as its only vector. A single vector leaves the softmax no choice,
        so `attend` then has no effect.
      special_tokens: whether <s> and </s> take part.

    Raises:
      ValueError: a field has a value that is not listed above.
    """

    kind: Literal['soft', 'maxsim', 'mean'] = 'soft'
    temperature: float = 0.1
    reduce: Literal['mean', 'sum'] = 'mean'
    attend: Literal['target', 'query', 'both', 'from_skill'] = 'target'
    target: Literal['tokens', 'mean'] = 'tokens'
    special_tokens: bool = True

    def __post_init__(self):
        for field in dataclasses.fields(Score):
            value, choices = getattr(self, field.name), get_args(field.type)
            if choices and value not in choices:
                raise ValueError(f'score.{field.name}: {value!r}, expected one of {", ".join(choices)}')
        if not self.temperature > 0:
            raise ValueError(f'score.temperature: {self.temperature}, expected a number above 0')

    def facing(self, skills: Side) -> 'Score':
        """The score for a task in which these are the skills: `from_skill` becomes `target` or `query`."""
        if self.attend != 'from_skill':
            return self
        return dataclasses.replace(self, attend='target' if skills == 'query' else 'query')

    @property
    def query_attends(self) -> bool:
        """Whether the query's tokens attend to the target's; under `from_skill`, the queries are skills."""
        return self.attend != 'query'

    @property
    def target_attends(self) -> bool:
        """Whether the target's tokens attend to the query's."""
        return self.attend in ('query', 'both')

    def combine(self, over_y: Shaped[Array, '*shape'], over_q: Shaped[Array, '*shape']) -> Shaped[Array, '*shape']:
        """sim(q, y) from what it is with the softmax over the target's tokens alone, and over the query's alone."""
        if self.query_attends and self.target_attends:
            return (over_y + over_q) / 2
        return over_y if self.query_attends else over_q


def has_attention(score: Score) -> bool:
    """Whether tokens are weighed against each other."""
    return score.kind != 'mean' and score.target == 'tokens'


def check_says_who_attends(score: Score) -> None:
    """Refuses a score that depends on which side the skills are on, where nothing says so.

    Raises:
      ValueError: `attend` is `from_skill`.
    """
    if has_attention(score) and score.attend == 'from_skill':
        raise ValueError(
            "score.attend: 'from_skill' depends on which side the skills are on; "
            "expected attend='query' if the targets are skills, attend='target' if the queries are"
        )


def participating(length: Int[Array, ' texts'], tokens: int, special_tokens: bool) -> Bool[Array, 'texts {tokens}']:
    """The mask of the token positions that take part in a score.

    Args:
      length: tokens of each text, <s> and </s> included; 0 for an empty slot.
      tokens: the padded length.
      special_tokens: whether the first and the last token take part.
    """
    position = jnp.arange(tokens)
    if special_tokens:
        return position < length[:, None]
    return (position > 0) & (position < length[:, None] - 1)


def widen(x: Shaped[Array, '*shape']) -> Float[Array, '*shape']:
    """Half precision becomes float32; float32 and float64 stay as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def inverse_norm(x: Shaped[Array, '*batch d']) -> Float[Array, '*batch']:
    """1 / |x| over the last axis, in float32 at least; 0 with zero gradient where x vanishes."""
    x = widen(x)
    squared = jnp.sum(x * x, axis=-1)
    vanishes = squared < 1e-30
    return jnp.where(vanishes, 0.0, jax.lax.rsqrt(jnp.where(vanishes, 1.0, squared)))


def attending_tokens(mask: Bool[Array, 'texts tokens'], score: Score) -> Int[Array, ' texts']:
    """The divisor of a text's sum over its attending tokens: their number under `reduce='mean'`, otherwise 1."""
    return jnp.maximum(mask.sum(axis=1), 1) if score.reduce == 'mean' else jnp.ones(len(mask), jnp.int32)


def fold_mask(
    x: Shaped[Array, '*tokens d'], mask: Bool[Array, '*tokens']
) -> tuple[Float[Array, '*tokens'], Float[Array, '*tokens']]:
    """Turns the mask into two numbers per token, so that a kernel needs no selection and no NaN can arise.

    A masked token gets the inverse norm 0, which makes all its cosines 0, and a bias so low that a softmax over its
    side gives it no weight. A text that is masked whole has uniform weights on cosines of 0.

    Returns:
      The inverse norms, and the biases to add to the logits.
    """
    return jnp.where(mask, inverse_norm(x), 0.0), jnp.where(mask, 0.0, MASKED)


def through_norms(
    x: Float[Array, 'texts tokens d'],
    products: Float32[Array, 'texts tokens d'],
    dc_c: Float32[Array, 'texts tokens'],
) -> Float32[Array, 'texts tokens d']:
    """The gradient of embeddings: dR·E - u² (Σ dC C) x, see `blockwise`.

    Args:
      x: the embeddings.
      products: dR·E, E the embeddings of the other side.
      dc_c: Σ dC C of each token; it carries the gradient of the norms.
    """
    return products - (dc_c * inverse_norm(x) ** 2)[..., None] * x.astype(jnp.float32)
