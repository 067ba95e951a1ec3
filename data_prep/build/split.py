"""What is held out for evaluation, so that none of its texts can reach training.

There are two sets, each a share that a seed chooses:
- occupations: none of their titles is a target in any graph, even if another occupation or a vacancy has it too;
- alternative names of skills.

A skill's label is in all of its pairs. Therefore alternative names that are labels are never held out, nor are
occupations with such a title. Texts are compared by `match_key`, which ignores case and spacing.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

from uwe_jax.data.text import match_key


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The evaluation sets, and what they forbid.

    Attributes:
      occupations: ids of the held-out occupations.
      titles: match keys of all their titles.
      alternatives: match keys of the held-out alternative names.
    """

    occupations: frozenset[str]
    titles: frozenset[str]
    alternatives: frozenset[str]

    def forbids(self, text: str) -> bool:
        """Whether a text must not be a target."""
        key = match_key(text)
        return key in self.titles or key in self.alternatives


def hold_out(
    titles: Mapping[str, Iterable[str]],
    alternatives: Iterable[str],
    labels: Iterable[str],
    occupation_share: float,
    alternative_share: float,
    seed: int,
) -> HeldOut:
    """Chooses what is held out.

    Args:
      titles: of every occupation, by its id.
      alternatives: all alternative names of skills.
      labels: all preferred labels of skills; they stay in training.
      occupation_share: of the occupations none of whose titles is a label.
      alternative_share: of the alternatives that are not labels, counted as distinct match keys.
      seed: another seed makes another choice.
    """
    taken = {match_key(text) for text in labels}
    keys = {occupation: {match_key(title) for title in names} for occupation, names in titles.items()}
    free = [occupation for occupation, names in keys.items() if not names & taken]
    occupations = _choose(free, occupation_share, f'occupation {seed}')
    return HeldOut(
        occupations,
        frozenset(key for occupation in occupations for key in keys[occupation]),
        _choose({match_key(text) for text in alternatives} - taken, alternative_share, f'alternative {seed}'),
    )


def _choose(items: Iterable[str], share: float, salt: str) -> frozenset[str]:
    """That share of the items, by their hashes: neither their order nor the version of a library matters."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(f'{salt} {item}'.encode()).digest())
    return frozenset(ranked[: round(share * len(ranked))])
