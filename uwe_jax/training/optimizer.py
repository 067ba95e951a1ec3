"""AdamW with warm-up, decay and clipping (paper, section 4.2)."""

import jax
import optax

from uwe_jax.training.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimizer.

    Args:
      config: `optimizer` of `configs/uwe.py`.
      steps: optimizer steps of the whole run.

    Returns:
      The optimizer, and its learning rate as a function of the steps taken.
    """
    warmup = max(round(config.warmup * steps), 1)
    after = max(steps - warmup, 1)
    decay = {
        'linear': optax.linear_schedule(config.peak_lr, 0.0, after),
        'cosine': optax.cosine_decay_schedule(config.peak_lr, after),
        'constant': optax.constant_schedule(config.peak_lr),
    }[config.decay]
    schedule = optax.join_schedules([optax.linear_schedule(0.0, config.peak_lr, warmup), decay], [warmup])
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=weight_decay_mask),
    )
    if config.max_skips:
        optimizer = optax.apply_if_finite(optimizer, config.max_skips)
    return optimizer, schedule


def weight_decay_mask(params):
    """True for matrices that multiply or embed; False for biases and norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.ndim > 1 and 'bias' not in jax.tree_util.keystr(path), params
    )
