"""What is held out for evaluation, so that none of its texts can reach training.

Two sets, each a share chosen by a seed:
- occupations. None of their titles is a target in any graph, whichever other occupation bears the title too.
- alternative names. They stand on neither side of any pair; so one that is also a skill's label is never chosen.

Texts are compared with `match_key`, which ignores case as well as spacing.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

from uwe_jax.data.text import match_key


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The evaluation sets, and what they forbid.

    Attributes:
      occupations: ids of the occupations held out.
      titles: match keys of all their titles.
      alternatives: match keys of the alternative names held out.
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
      occupation_share: of the occupations.
      alternative_share: of the alternatives that are no label, as distinct match keys.
      seed: another seed, another choice.
    """
    occupations = _choose(titles, occupation_share, f'occupation {seed}')
    eligible = {match_key(text) for text in alternatives} - {match_key(text) for text in labels}
    return HeldOut(
        occupations,
        frozenset(match_key(title) for occupation in occupations for title in titles[occupation]),
        _choose(eligible, alternative_share, f'alternative {seed}'),
    )


def _choose(items: Iterable[str], share: float, salt: str) -> frozenset[str]:
    """Returns that share of the items, by the hash of each: neither their order nor a library's version matters."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(f'{salt} {item}'.encode()).digest())
    return frozenset(ranked[: round(share * len(ranked))])
