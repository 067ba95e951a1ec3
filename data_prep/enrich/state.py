"""What is known of each skill's titles, and what to do next about it; rebuilt from the journal at any time."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uwe_jax.io.esco import Concept

SURPLUS = 1.5  # titles asked for, for each that is missing: some are merged
FEWEST_ASKED = 5

# Kinds of records in the journal.
ANSWER = 'answer'  # one that brought titles
UNUSABLE = 'unusable'  # one that came, and was perhaps paid for, but brought nothing
FAILED = 'failed'  # a call without an answer
MERGED = 'merged'  # what remained of a skill's titles after a round


@dataclasses.dataclass
class SkillTitles:
    """The titles of one skill.

    Attributes:
      skill: the skill.
      real: distinct titles that are no model's proposal.
      answers: by round, from 1: the titles that the accepted answer brought.
      models: by round: which model answered.
      kept: by round, from 0: what remained after merging those of that round and before.
      unusable: by round: how many answers brought nothing.
      reason: why the last unusable one brought nothing.
    """

    skill: Concept
    real: Sequence[str]
    answers: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    models: dict[int, str | None] = dataclasses.field(default_factory=dict)
    kept: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    unusable: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    reason: str = ''

    @property
    def round(self) -> int:
        """The last round that brought titles; 0 before the first."""
        return max(self.answers, default=0)

    @property
    def titles(self) -> list[str]:
        """All titles, merged or not."""
        return [*self.real, *(title for answer in self.answers.values() for title in answer)]

    @property
    def to_merge(self) -> bool:
        """Whether titles have come since the last merging."""
        return self.round not in self.kept

    @property
    def remaining(self) -> list[str]:
        """The titles that remain; before any merging all of the last round."""
        return self.kept.get(self.round, self.titles)

    def given_up(self, attempts: int) -> bool:
        """Whether the next round has had its attempts."""
        return self.unusable[self.round + 1] >= attempts

    def open(self, wanted: int, rounds: int, attempts: int) -> bool:
        """Whether to ask for more."""
        return len(self.remaining) < wanted and self.round < rounds and not self.given_up(attempts)

    def asked(self, wanted: int) -> int:
        """How many titles to ask for."""
        return max(FEWEST_ASKED, math.ceil(SURPLUS * (wanted - len(self.remaining))))

    def apply(self, record: Mapping[str, Any]) -> None:
        """Takes in a record of the journal about this skill."""
        match record['kind']:
            case 'answer':
                self.answers[record['round']] = record['titles']
                self.models[record['round']] = record['model']
            case 'merged':
                self.kept[record['round']] = record['kept']
            case 'unusable':
                self.unusable[record['round']] += 1
                self.reason = record['reason']

    def lines(self) -> list[dict[str, Any]]:
        """What remains, as lines of titles.jsonl."""
        came = {title: number for number, titles in self.answers.items() for title in titles}
        return [
            {
                'skill': self.skill.uri,
                'title': title,
                'source': 'synthetic' if title in came else 'real',
                'round': came.get(title, 0),
                'model': self.models[came[title]] if title in came else None,
            }
            for title in self.remaining
        ]


def count(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What was done in all, counted from the journal's records, those of earlier runs included.

    Returns:
      `calls`: answers that came; `accepted` and `unusable` (by reason) part them. `refusals`: of the unusable ones.
      `retries`: calls without an answer, by kind. `tokens`: sums of what the endpoint says, and the number of answers
      about which it says nothing. `titles_dropped`: from accepted answers, by reason.
    """
    accepted, unknown = 0, 0
    unusable: collections.Counter[str] = collections.Counter()
    failed: collections.Counter[str] = collections.Counter()
    dropped: collections.Counter[str] = collections.Counter()
    tokens = {'input': 0, 'output': 0}
    for record in records:
        if record['kind'] == FAILED:
            failed[record['reason']] += 1
        elif record['kind'] in (ANSWER, UNUSABLE):
            unknown += record['input_tokens'] is None or record['output_tokens'] is None
            tokens['input'] += record['input_tokens'] or 0
            tokens['output'] += record['output_tokens'] or 0
            if record['kind'] == ANSWER:
                accepted += 1
                dropped.update(record['dropped'])
            else:
                unusable[record['reason']] += 1
    return {
        'calls': accepted + unusable.total(),
        'accepted': accepted,
        'unusable': dict(sorted(unusable.items())),
        'refusals': unusable['refusal'],
        'retries': dict(sorted(failed.items())),
        'tokens': {**tokens, 'answers_without_usage': unknown},
        'titles_dropped': dict(sorted(dropped.items())),
    }
