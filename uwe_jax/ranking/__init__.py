"""Using a model: embed a target space once, then rank it for any query."""

from uwe_jax.ranking.index import Hit, TargetIndex
from uwe_jax.ranking.ranker import AttentionMap, Ranker

__all__ = ['AttentionMap', 'Hit', 'Ranker', 'TargetIndex']
