"""The encoder: MPNet ("Masked and Permuted Pre-training for Language Understanding", arXiv 2004.09297) in Flax.

Post-LayerNorm transformer layers with exact gelu. Positions start at 2, and all layers share one table of
relative-position biases. The pooler of the pretrained model is left out.

`MPNetConfig` here rather than transformers': that one fills in a size that config.json lacks without saying so, and its
import takes 1.1 s of CPU time (2.4 s where torch is installed), against 0.7 s for JAX itself.
"""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int, Int32, Key, UInt32

FIRST_POSITION = 2  # of every text; 0 is reserved, 1 is for padding
FARTHEST = 128  # tokens at least this far apart share the last bucket of relative positions
MASKED = -1e30  # the logit of a token of another text
STORED = 'stored'  # the name of what a loop over layers stores for the backward pass


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
        if values.get('hidden_act', 'gelu') != 'gelu':
            raise ValueError(f'{path}: hidden_act {values["hidden_act"]!r}, expected gelu')
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
      rngs: for the initial values of the parameters.
    """

    def __init__(self, config: MPNetConfig, *, dtype: str, dropout: float = 0.0, rngs: nnx.Rngs):
        self.config, self.dtype, self.dropout = config, dtype, dropout
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
        ids: Int[Array, 'rows tokens'],
        text: Int[Array, 'rows tokens'],
        position: Int[Array, 'rows tokens'],
        *,
        layers: nnx.State | None = None,
        dropout_key: Key[Array, ''] | None = None,
    ) -> Float[Array, 'rows tokens d']:
        """Encodes texts that lie one after another in rows; each is encoded as if it were alone.

        Args:
          ids: token ids; <s> and </s> are part of every text. Where there is no text, any id.
          text: which text of its row a token belongs to; padding counts as one more text.
          position: the place of a token in its text, from 0.
          layers: `stacked_layers()`, which makes the call loop over the layers; otherwise each is compiled on its own.
          dropout_key: switches dropout on.

        Returns:
          The token embeddings of the last layer, float32, neither pooled nor normalised. Those of padding mean nothing.
        """
        first_key, keys = None, None
        if dropout_key is not None:
            first_key, *keys = jax.random.split(dropout_key, len(self.layers) + 1)

        x = self.word_embeddings(ids) + self.position_embeddings(position + FIRST_POSITION)
        x = dropped(self.embeddings_norm(x), self.dropout, first_key).astype(self.dtype)  # [rows, tokens, d]

        # Within a text, the distance of two tokens is that of their places in the row.
        buckets = relative_buckets(ids.shape[1], self.relative_attention_bias.num_embeddings)
        bias = self.relative_attention_bias(jnp.asarray(buckets)).transpose(2, 0, 1)  # [heads, tokens, tokens]
        same_text = text[:, :, None] == text[:, None, :]
        bias = jnp.where(same_text[:, None], bias, MASKED)  # [rows, heads, tokens, tokens]
        if layers is None:
            for layer, key in zip(self.layers, keys or [None] * len(self.layers), strict=True):
                x = layer(x, bias, key)
        else:
            graphdef = nnx.graphdef(self.layers[0])

            def apply(x, layer):
                params, key = layer
                return nnx.merge(graphdef, params)(x, bias, key), None

            # The results of products are stored, a fifth of what the gradient needs. The rest is computed again:
            # elementwise operations, dropout's bits and the attention logits.
            apply = jax.checkpoint(
                apply, policy=jax.checkpoint_policies.save_only_these_names(STORED), prevent_cse=False
            )
            x, _ = jax.lax.scan(apply, x, (layers, keys and jnp.stack(keys)))
        return x.astype(jnp.float32)

    def stacked_layers(self) -> nnx.State:
        """The parameters of all layers, joined along a new first axis, for calls that loop over them.

        This copies them, but only one layer is compiled: the paper's step for an H100 in a sixth of the time.
        """
        return jax.tree.map(lambda *params: jnp.stack(params), *[nnx.state(layer) for layer in self.layers])


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
        x: Float[Array, 'rows tokens d'],
        bias: Float[Array, 'rows heads tokens tokens'],
        key: Key[Array, ''] | None,
    ) -> Float[Array, 'rows tokens d']:
        """Applies the layer; `bias` is added to the attention logits, and `key` switches dropout on."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        attended = dropped(self._attend(x, bias, keys[0]), self.dropout, keys[1])
        x = self.attention_norm(x + attended).astype(self.dtype)
        # gelu is faster in float32 than in bfloat16 on CPUs, and XLA fuses the casts.
        inner = nnx.gelu(linear(x, self.intermediate).astype(jnp.float32), approximate=False).astype(self.dtype)
        return self.output_norm(x + dropped(linear(inner, self.output), self.dropout, keys[2])).astype(self.dtype)

    def _attend(self, x: Array, bias: Array, key: Array | None) -> Array:
        q, k, v = (linear(x, f).reshape(*x.shape[:2], self.heads, -1) for f in (self.q, self.k, self.v))
        scale = 1 / np.sqrt(q.shape[-1])  # q, k, v: [rows, tokens, heads, d / heads]
        logits = jnp.einsum(
            'bihd,bjhd->bhij', q, k, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST
        )
        weights = dropped(jax.nn.softmax(logits * scale + bias), self.dropout, key).astype(self.dtype)
        mixed = jnp.einsum('bhij,bjhd->bihd', weights, v, precision=jax.lax.Precision.HIGHEST)
        return linear(checkpoint_name(mixed.reshape(x.shape), STORED), self.o)


def linear(x: Array, layer: nnx.Linear) -> Array:
    """Returns x W + b in the dtype of x, accumulated in float32 and rounded once, forward and backward.

    On CPUs, XLA multiplies bfloat16 into bfloat16 at half the speed, and rounds inside the product.
    """
    product = _linear(x, layer.kernel[...], layer.bias[...])  # pyright: ignore[reportOptionalSubscript] (all have one)
    return checkpoint_name(product, STORED)


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
    on_cpu = _contracted if x.dtype == jnp.float32 else _contracted_by_copy
    of_kernel = jax.lax.platform_dependent(rows, of_rows, cpu=on_cpu, default=_contracted)
    # The parameters are float32, and so are their gradients.
    return of_x, of_kernel.astype(kernel.dtype), of_rows.sum(axis=0, dtype=jnp.float32)


_linear.defvjp(_linear_forward, _linear_backward)


def _contracted(x: Array, y: Array) -> Array:
    """x^T y: [t, n], [t, m] -> [n, m] float32."""
    return _product('tn,tm->nm', x, y)


def _contracted_by_copy(x: Array, y: Array) -> Array:
    """Equals `_contracted`; on a CPU, XLA multiplies bfloat16 at full speed only where the left rows are contiguous."""
    return _product('nt,tm->nm', with_layout_constraint(x.T, Layout(major_to_minor=(0, 1))), y)


def _product(subscripts: str, x: Array, y: Array) -> Array:
    """A product of two arrays of one dtype, in float32; HIGHEST keeps accelerators from rounding float32 inputs."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32, precision=precision)


@functools.partial(jax.jit, static_argnums=1)
def cast_matrices(params: nnx.State, dtype: str) -> nnx.State:
    """Casts the kernels of linear layers once, for an encoder that is called many times with the same parameters."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype(dtype) if 'kernel' in jax.tree_util.keystr(path) else x, params
    )


def _norm(config: MPNetConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs)


def dropped(x: Float[Array, '*shape'], rate: float, key: Key[Array, ''] | None) -> Float[Array, '*shape']:
    """Dropout: sets each element to 0 with probability `rate` and divides the others by 1 - rate. Off without a key."""
    if key is None or rate == 0:
        return x
    kept = _random_words(key, x.shape) >= np.uint32(rate * 2**32)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def _random_words(key: Key[Array, ''], shape: tuple[int, ...]) -> UInt32[Array, '...']:
    """32 random bits per element: its number, hashed twice with a part of the key each time.

    XLA fuses this into what uses the bits. With `jax.random.bits` the bits go through memory, and dropout takes a sixth
    of a training step on a CPU. The hash is lowbias32 (Wellons, "Prospecting for Hash Functions", 2018).
    """
    number = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        number = number * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    for word in jax.random.bits(key, (2,), jnp.uint32):
        number ^= word
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            number = (number ^ (number >> shift)) * np.uint32(factor)
        number ^= number >> 16
    return number


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
