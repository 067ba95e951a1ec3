"""AdamW with warm-up, decay and clipping (paper, section 4.2)."""

import jax
import optax

from uwe_jax.training.config import Config

DECAYS = ('linear', 'cosine', 'constant')


def make_optimizer(config: Config, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the optimizer.

    Args:
      config: `optimizer` of `configs/uwe.py`.
      steps: optimizer steps of the whole run.

    Returns:
      The optimizer, and its learning rate as a function of the steps taken.

    Raises:
      ValueError: a field is out of its range.
    """
    if config.decay not in DECAYS:
        raise ValueError(f'optimizer.decay: {config.decay!r}, expected one of {", ".join(DECAYS)}')
    if not 0 <= config.warmup < 1:
        raise ValueError(f'optimizer.warmup: {config.warmup}, expected a share of the steps, from 0 to below 1')
    for name in ('peak_lr', 'clip'):
        if not config[name] > 0:
            raise ValueError(f'optimizer.{name}: {config[name]}, expected a number above 0')
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
        optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=decayed),
    )
    if config.max_skips:
        optimizer = optax.apply_if_finite(optimizer, config.max_skips)
    return optimizer, schedule


def decayed(params):
    """Which parameters weight decay acts on: matrices that multiply or embed; no bias, no norm."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.ndim > 1 and 'bias' not in jax.tree_util.keystr(path), params
    )
