"""Soft late interaction: from token embeddings of queries and targets to their scores, in both directions.

`late_interaction` is the one public function for training. It has two parameters that change neither values nor
gradients: the *form*, what a device computes on its rows (`reference`, `blockwise`, or a kernel in `tpu` or `gpu`), and
on a mesh the *exchange*, how a device gets the targets of the others. `packed` is what ranking uses: one direction, and
targets without padding. `attention` looks at single pairs.
"""

from uwe_jax.interaction.attention import attention, mean_entropy
from uwe_jax.interaction.exchange import EXCHANGES
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
    'has_attention',
    'late_interaction',
    'mean_entropy',
]
