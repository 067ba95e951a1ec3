"""The encoder: MPNet ("Masked and Permuted Pre-training for Language Understanding", arXiv 2004.09297) in Flax.

Post-LayerNorm transformer layers with exact gelu. Positions start at 2, and all layers share one table of
relative-position biases. The pooler of the pretrained model is left out.

`MPNetConfig` here rather than transformers': that one fills in a size that config.json lacks without saying so, and its
import takes 1.1 s of CPU time (2.4 s where torch is installed), against 0.7 s for JAX itself.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, Key

FIRST_POSITION = 2  # 0 is reserved, 1 is for padding
FARTHEST = 128  # tokens at least this far apart share the last bucket of relative positions


@dataclasses.dataclass(frozen=True)
class MPNetConfig:
    """The sizes of an MPNet, named as in Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    relative_attention_num_buckets: int
    layer_norm_eps: float

    @classmethod
    def read(cls, path: pathlib.Path) -> 'MPNetConfig':
        """Reads a config.json.

        Raises:
          ValueError: the file is not JSON, describes another model, or lacks a size.
        """
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f'{path}: not JSON ({error}), expected the config of an MPNet') from error
        if values.get('model_type') != 'mpnet':
            raise ValueError(f'{path}: model_type {values.get("model_type")!r}, expected mpnet')
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f'{path}: {", ".join(missing)} missing, expected the config of an MPNet')
        return cls(**{name: values[name] for name in names})


class MPNet(nnx.Module):
    """Maps token ids to token embeddings.

    Parameters are float32. Their sharding metadata splits every matrix over the mesh axis `fsdp`.

    Args:
      config: the sizes.
      dtype: float32 or bfloat16, for matrix products and for activations between layers; norms and softmax are float32.
      dropout: probability, used only where a call gets a dropout key; applied in the same places as in the original.
      remat: recompute each layer in the backward pass instead of storing its activations.
      rngs: for the initial values of the parameters.
    """

    def __init__(self, config: MPNetConfig, *, dtype: str, dropout: float = 0.0, remat: bool = False, rngs: nnx.Rngs):
        self.config, self.dtype, self.dropout, self.remat = config, dtype, dropout, remat
        # The caller places the parameters by their sharding metadata; making them must not need a mesh.
        with nnx.use_eager_sharding(False):
            table = nnx.with_partitioning(nnx.initializers.normal(0.02), (None, 'fsdp'))
            size = config.hidden_size
            self.word_embeddings = nnx.Embed(config.vocab_size, size, embedding_init=table, rngs=rngs)
            self.position_embeddings = nnx.Embed(config.max_position_embeddings, size, embedding_init=table, rngs=rngs)
            self.embeddings_norm = _norm(config, rngs)
            self.relative_attention_bias = nnx.Embed(
                config.relative_attention_num_buckets, config.num_attention_heads, rngs=rngs
            )
            self.layers = nnx.List(
                [Layer(config, dtype=dtype, dropout=dropout, rngs=rngs) for _ in range(config.num_hidden_layers)]
            )

    def __call__(
        self,
        ids: Int[Array, 'texts tokens'],
        length: Int[Array, ' texts'],
        *,
        dropout_key: Key[Array, ''] | None = None,
    ) -> Float[Array, 'texts tokens d']:
        """Encodes a batch of texts.

        Args:
          ids: token ids, <s> and </s> included, padded with any id.
          length: the number of tokens in each text. Padding is not attended to, and its embeddings mean nothing.
          dropout_key: switches dropout on.

        Returns:
          The token embeddings of the last layer, float32, neither pooled nor normalised.
        """
        keys = iter([None] * (len(self.layers) + 1))
        if dropout_key is not None:
            keys = iter(jax.random.split(dropout_key, len(self.layers) + 1))

        tokens = ids.shape[1]
        attended = jnp.arange(tokens) < length[:, None]  # [texts, tokens]
        positions = jnp.where(attended, jnp.arange(tokens) + FIRST_POSITION, 1)
        x = self.word_embeddings(ids) + self.position_embeddings(positions)  # [texts, tokens, d]
        x = dropped(self.embeddings_norm(x), self.dropout, next(keys)).astype(self.dtype)

        buckets = relative_buckets(tokens, self.relative_attention_bias.num_embeddings)
        bias = self.relative_attention_bias(jnp.asarray(buckets)).transpose(2, 0, 1)  # [heads, tokens, tokens]
        # Finite instead of -inf: a text without tokens must not become NaN.
        mask = jnp.where(attended, 0.0, jnp.finfo(jnp.float32).min / 4)
        bias = bias + mask[:, None, None, :]  # [texts, heads, tokens, tokens]
        run = nnx.remat(Layer.__call__) if self.remat else Layer.__call__
        for layer in self.layers:
            x = run(layer, x, bias, next(keys))
        return x.astype(jnp.float32)


class Layer(nnx.Module):
    """One transformer layer: attention and feed-forward, each added to its input and normalised afterwards."""

    def __init__(self, config: MPNetConfig, *, dtype: str, dropout: float, rngs: nnx.Rngs):
        self.dtype, self.dropout, self.heads = dtype, dropout, config.num_attention_heads

        def linear(size_in: int, size_out: int) -> nnx.Linear:
            kernel = nnx.with_partitioning(nnx.initializers.normal(0.02), ('fsdp', None))
            return nnx.Linear(size_in, size_out, kernel_init=kernel, rngs=rngs)

        size = config.hidden_size
        self.q, self.k, self.v, self.o = (linear(size, size) for _ in range(4))
        self.attention_norm = _norm(config, rngs)
        self.intermediate = linear(size, config.intermediate_size)
        self.output = linear(config.intermediate_size, size)
        self.output_norm = _norm(config, rngs)

    def __call__(
        self,
        x: Float[Array, 'texts tokens d'],
        bias: Float[Array, 'texts heads tokens tokens'],
        key: Key[Array, ''] | None,
    ) -> Float[Array, 'texts tokens d']:
        """Applies the layer; `bias` is added to the attention logits, and `key` switches dropout on."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        attended = dropped(self._attend(x, bias, keys[0]), self.dropout, keys[1])
        x = self.attention_norm(x + attended).astype(self.dtype)
        # gelu is faster in float32 than in bfloat16 on CPUs, and XLA fuses the casts.
        inner = nnx.gelu(linear(x, self.intermediate).astype(jnp.float32), approximate=False).astype(self.dtype)
        return self.output_norm(x + dropped(linear(inner, self.output), self.dropout, keys[2])).astype(self.dtype)

    def _attend(self, x: Array, bias: Array, key: Array | None) -> Array:
        q, k, v = (linear(x, f).reshape(*x.shape[:2], self.heads, -1) for f in (self.q, self.k, self.v))
        scale = 1 / np.sqrt(q.shape[-1])  # q, k, v: [texts, tokens, heads, d / heads]
        logits = jnp.einsum(
            'bihd,bjhd->bhij', q, k, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST
        )
        weights = dropped(jax.nn.softmax(logits * scale + bias), self.dropout, key).astype(self.dtype)
        mixed = jnp.einsum('bhij,bjhd->bihd', weights, v, precision=jax.lax.Precision.HIGHEST)
        return linear(mixed.reshape(x.shape), self.o)


def linear(x: Array, layer: nnx.Linear) -> Array:
    """Returns x W + b in the dtype of x, accumulated in float32 and rounded once, forward and backward.

    On CPUs, XLA multiplies bfloat16 into bfloat16 at half the speed, and rounds inside the product.
    """
    return _linear(x, layer.kernel[...], layer.bias[...])  # pyright: ignore[reportOptionalSubscript] (all have one)


@jax.custom_vjp
def _linear(x: Array, kernel: Array, bias: Array) -> Array:
    """[..., n] of any dtype, [n, m] and [m] float32 -> [..., m]."""
    return (_product('...n,nm->...m', x, kernel.astype(x.dtype)) + bias).astype(x.dtype)


def _linear_forward(x, kernel, bias):
    return _linear(x, kernel, bias), (x, kernel)


def _linear_backward(saved, gradient):
    x, kernel = saved
    of_x = _product('...m,nm->...n', gradient, kernel.astype(x.dtype)).astype(x.dtype)
    rows, of_rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    of_kernel = _product('tn,tm->nm', rows, of_rows)  # stays float32, as the parameters are
    return of_x, of_kernel.astype(kernel.dtype), of_rows.sum(axis=0, dtype=jnp.float32)


_linear.defvjp(_linear_forward, _linear_backward)


def _product(subscripts: str, x: Array, y: Array) -> Array:
    """A product of two arrays of one dtype, in float32; HIGHEST keeps accelerators from rounding float32 inputs."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32, precision=precision)


def _norm(config: MPNetConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs)


def dropped(x: Float[Array, '*shape'], rate: float, key: Key[Array, ''] | None) -> Float[Array, '*shape']:
    """Dropout: sets each element to 0 with probability `rate` and divides the others by 1 - rate. Off without a key.

    Sixteen random bits per element are enough, and cost half as much as a random float.
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bits(key, x.shape, jnp.uint16) >= round(rate * 2**16)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def relative_buckets(tokens: int, buckets: int) -> Int32[np.ndarray, 'tokens tokens']:
    """The bucket of the distance between any two positions, indexed [query, key].

    Half of the buckets are for keys after the query. In each half, the first half hold one distance each, and the other
    ones grow logarithmically up to `FARTHEST`.
    """
    distance = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    half, exact = buckets // 2, buckets // 4
    far = np.maximum(np.abs(distance), exact).astype(np.float32)
    logarithmic = exact + (np.log(far / exact) / np.log(FARTHEST / exact) * (half - exact)).astype(np.int32)
    bucket = np.where(np.abs(distance) < exact, np.abs(distance), np.minimum(logarithmic, half - 1))
    return (bucket + half * (distance > 0)).astype(np.int32)
