"""The floating-point operations (FLOPs) of a step by formula, and the peak FLOP/s of devices: together they make MFU.

A multiplication and an addition are two operations. Only matrix products count; elementwise work (norms, softmax, gelu,
dropout, the loss, the optimizer) is about a hundredth of them with the base model's sizes.

MFU, model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B), is the share of the peak that a step needs for its
real tokens. Neither padding nor anything that is computed again in the backward pass counts as needed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from uwe_jax.data.graph import GRAPHS
from uwe_jax.interaction import Score
from uwe_jax.models.mpnet import MPNetConfig

WITH_BACKWARD = 3  # the backward pass makes two products for each product of the forward pass

Lengths: TypeAlias = Any  # int [texts], of numpy or of JAX: tokens of each text, 0 for an empty slot


def encoder_flops(sizes: MPNetConfig, lengths: Lengths) -> Any:
    """The operations of encoding texts, forward.

    Args:
      sizes: of the encoder.
      lengths: of the texts. An encoder that pads computes as if all of them had the padded length.

    Returns:
      A number: float32 on the devices if `lengths` is a JAX array, otherwise float64.
    """
    d, inner = sizes.hidden_size, sizes.intermediate_size
    per_token = 2.0 * (4 * d * d + 2 * d * inner)  # q, k, v and o; both layers of the feed-forward block
    per_pair = 2.0 * 2 * d  # a logit, and a weighted value
    return sizes.num_hidden_layers * (per_token * lengths.sum() + per_pair * (lengths * lengths).sum())


def interaction_flops(score: Score, width: int, q_lengths: Lengths, y_lengths: Lengths) -> Any:
    """The operations of scoring all queries against all targets in both directions, forward.

    Args:
      score: the scoring function.
      width: the dimension of an embedding.
      q_lengths, y_lengths: of the queries and of the targets.

    Returns:
      A number, as `encoder_flops` does.
    """
    (q_texts, q_tokens), (y_texts, y_tokens) = (
        (1.0 * (lengths > 0).sum(), 1.0 * lengths.sum()) for lengths in (q_lengths, y_lengths)
    )
    if score.kind == 'mean':  # one vector per text
        products = q_texts * y_texts
    elif score.target == 'mean':  # the tokens of each side against one vector per text of the other
        products = q_tokens * y_texts + y_tokens * q_texts
    else:  # both directions share the products of tokens, whichever side attends
        products = q_tokens * y_tokens
    return 2.0 * width * products


def step_flops(sizes: MPNetConfig, score: Score, lengths: Mapping[str, Lengths]) -> dict[str, Any]:
    """The operations of a training step on all devices together, for `encoder` and `interaction`.

    Args:
      sizes, score: as above.
      lengths: of the texts of each side.
    """
    encoder = sum(encoder_flops(sizes, side) for side in lengths.values())
    interaction = sum(interaction_flops(score, sizes.hidden_size, lengths['skill'], lengths[graph]) for graph in GRAPHS)
    return {'encoder': WITH_BACKWARD * encoder, 'interaction': WITH_BACKWARD * interaction}


class Peak(NamedTuple):
    """The most FLOP/s that a device reaches in products of dense matrices, as its vendor states it.

    Attributes:
      bfloat16: with sums in float32.
      float32: products at full precision (`Precision.HIGHEST`), without TF32. A TPU takes six bfloat16 passes for one,
        so there it is a sixth of `bfloat16`.
    """

    bfloat16: float
    float32: float


def _tpu(teraflops: float) -> Peak:
    return Peak(teraflops * 1e12, teraflops * 1e12 / 6)


def _gpu(bfloat16: float, float32: float) -> Peak:
    return Peak(bfloat16 * 1e12, float32 * 1e12)


# By `jax.Device.device_kind`. TPU v2, v3 and 7x, where a JAX device is half a chip, and GPUs without bfloat16 are left
# out.
PEAKS = {
    # cloud.google.com/tpu/docs: "System architecture" of each version.
    'TPU v4': _tpu(275),
    'TPU v5 lite': _tpu(197),
    'TPU v5e': _tpu(197),
    'TPU v5': _tpu(459),
    'TPU v5p': _tpu(459),
    'TPU v6 lite': _tpu(918),
    'TPU v6e': _tpu(918),
    # NVIDIA A100 Tensor Core GPU data sheet.
    'NVIDIA A100-SXM4-40GB': _gpu(312, 19.5),
    'NVIDIA A100-SXM4-80GB': _gpu(312, 19.5),
    'NVIDIA A100-PCIE-40GB': _gpu(312, 19.5),
    'NVIDIA A100 80GB PCIe': _gpu(312, 19.5),
    # NVIDIA H100 Tensor Core GPU data sheet; its bfloat16 numbers are "with sparsity", twice the dense ones.
    'NVIDIA H100 80GB HBM3': _gpu(1979 / 2, 67),
    'NVIDIA H100 PCIe': _gpu(1513 / 2, 51),
    'NVIDIA H100 NVL': _gpu(1671 / 2, 60),
    # NVIDIA H200 Tensor Core GPU data sheet, also with sparsity.
    'NVIDIA H200': _gpu(1979 / 2, 67),
    'NVIDIA H200 NVL': _gpu(1671 / 2, 60),
    # NVIDIA L4 and L40S data sheets, also with sparsity.
    'NVIDIA L4': _gpu(242 / 2, 30.3),
    'NVIDIA L40S': _gpu(733 / 2, 91.6),
    # NVIDIA Ada and Ampere GA102 architecture white papers: "peak BF16 Tensor TFLOPS with FP32 accumulate", dense.
    'NVIDIA GeForce RTX 4090': _gpu(165.2, 82.6),
    'NVIDIA GeForce RTX 3090': _gpu(71, 35.6),
}


def peak_flops(device: Any, dtype: str) -> float | None:
    """The peak FLOP/s of a device for `bfloat16` or `float32` products; None if `PEAKS` does not have the device."""
    peak = PEAKS.get(device.device_kind)
    return getattr(peak, dtype) if peak else None
