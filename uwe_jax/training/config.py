"""What a config may say, looked at before any work is done for it."""

from collections.abc import Callable
from typing import Any, TypeAlias

from uwe_jax.interaction import EXCHANGES, FORMS, Score
from uwe_jax.loss import InfoNCE

# An ml_collections.ConfigDict with the fields of configs/uwe.py, which have no static types.
Config: TypeAlias = Any

DTYPES = ('float32', 'bfloat16')


def check(config: Config) -> None:
    """Refuses a config before any work is done for it.

    Raises:
      ValueError: the message names the field, its value and what was expected.
    """
    for field in (
        'steps',
        'run.log_every',
        'run.evaluate_every',
        'run.evaluate_queries',
        'run.save_every',
        'run.keep',
        'run.stall_timeout',
    ):
        _expect(config, field, lambda value: value > 0, 'a whole number above 0')
    _expect(config, 'optimizer.max_skips', lambda value: value >= 0, 'a whole number, 0 or above')
    _expect(config, 'run.prefetch', lambda value: value >= 0, 'a whole number, 0 or above')
    _expect(config, 'model.dropout', lambda value: 0 <= value < 1, 'a probability below 1')
    _expect(config, 'model.dtype', lambda value: value in DTYPES, f'one of {", ".join(DTYPES)}')
    _expect(config, 'interaction.dtype', lambda value: value in DTYPES, f'one of {", ".join(DTYPES)}')
    _expect(config, 'interaction.form', lambda value: value in FORMS, f'one of {", ".join(FORMS)}')
    _expect(config, 'interaction.exchange', lambda value: value in EXCHANGES, f'one of {", ".join(EXCHANGES)}')
    _expect(config, 'interaction.block_entries', lambda value: value >= 0, 'a whole number, 0 or above')
    for graph in config.loss.weight:
        _expect(config, f'loss.weight.{graph}', lambda value: value >= 0, 'a number, 0 or above')
        _expect(config, f'loss.temperature.{graph}', lambda value: value > 0, 'a number above 0')
    Score(**config.score)
    loss_choices(config)


def loss_choices(config: Config) -> InfoNCE:
    """The config's choices of the loss, as the loss takes them."""
    return InfoNCE(config.loss.denominator, config.loss.positives, config.loss.directions)


def _expect(config: Config, field: str, holds: Callable[[Any], bool], expected: str) -> None:
    value = config
    for name in field.split('.'):
        value = value[name]
    if not holds(value):
        raise ValueError(f'{field}: {value!r}, expected {expected}')
