"""Soft late interaction: from token embeddings of queries and targets to their scores, in both directions.

`late_interaction` is the one public function. Behind it stand two forms with equal values and gradients: `reference`,
a few lines to check against the paper, and `blockwise`, which stores nothing of the size of all token pairs. Given a
mesh, each device scores its own rows of queries against all targets.
"""

from uwe_jax.interaction.attention import attention, has_attention, mean_entropy
from uwe_jax.interaction.late_interaction import FORMS, late_interaction
from uwe_jax.interaction.score import Score

__all__ = ['FORMS', 'Score', 'attention', 'has_attention', 'late_interaction', 'mean_entropy']
