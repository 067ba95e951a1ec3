"""Soft late interaction: from token embeddings of queries and targets to their scores, in both directions.

`late_interaction` is what training computes on each device. Its *form* (`reference`, `blockwise`, or the kernel in
`tpu`) changes neither values nor gradients. `exchanged` calls it on a mesh, where a device needs the queries of the
others. `packed` is what ranking uses: one direction, and targets without padding. `attention` looks at single pairs.
"""

from uwe_jax.interaction.attention import attention, mean_entropy
from uwe_jax.interaction.exchange import EXCHANGES, exchanged
from uwe_jax.interaction.form import FORMS
from uwe_jax.interaction.late_interaction import late_interaction
from uwe_jax.interaction.score import Score, Side, check_says_who_attends, has_attention

__all__ = [
    'EXCHANGES',
    'FORMS',
    'Score',
    'Side',
    'attention',
    'check_says_who_attends',
    'exchanged',
    'has_attention',
    'late_interaction',
    'mean_entropy',
]
