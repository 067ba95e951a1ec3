"""The state of each skill: its titles and what to do next. The journal's records rebuild it at any time."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uwe_jax.io.esco import Concept

SURPLUS = 1.5  # titles asked for per missing one, because some will be merged
FEWEST_ASKED = 5

# Kinds of records in the journal.
ANSWER = 'answer'  # with titles
UNUSABLE = 'unusable'  # an answer without a usable title; it may have cost money
MERGED = 'merged'  # the titles of a skill that remained after a round


@dataclasses.dataclass
class SkillTitles:
    """The titles of one skill.

    Attributes:
      skill: the skill.
      real: distinct titles that no model proposed.
      answers: by round, from 1: the titles of the accepted answer.
      models: by round: the model that answered.
      kept: by round, from 0: the titles that remained after merging.
      unusable: by round: the number of unusable answers.
      reason: why the last unusable answer was unusable.
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
        """The last round with an accepted answer; 0 before the first."""
        return max(self.answers, default=0)

    @property
    def titles(self) -> list[str]:
        """All titles, merged or not."""
        return [*self.real, *(title for answer in self.answers.values() for title in answer)]

    @property
    def to_merge(self) -> bool:
        """Whether there are titles that have not been merged."""
        return self.round not in self.kept

    @property
    def remaining(self) -> list[str]:
        """The titles that remain after merging; all of them if the last round has not been merged."""
        return self.kept.get(self.round, self.titles)

    def given_up(self, attempts: int) -> bool:
        """Whether the attempts of the next round are used up."""
        return self.unusable[self.round + 1] >= attempts

    def open(self, wanted: int, rounds: int, attempts: int) -> bool:
        """Whether to ask for more."""
        return len(self.remaining) < wanted and self.round < rounds and not self.given_up(attempts)

    def asked(self, wanted: int) -> int:
        """How many titles to ask for."""
        return max(FEWEST_ASKED, math.ceil(SURPLUS * (wanted - len(self.remaining))))

    def apply(self, record: Mapping[str, Any]) -> None:
        """Applies a record of the journal about this skill."""
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
        """The remaining titles, as lines of titles.jsonl."""
        round_of = {title: number for number, titles in self.answers.items() for title in titles}
        return [
            {
                'skill': self.skill.uri,
                'title': title,
                'source': 'synthetic' if title in round_of else 'real',
                'round': round_of.get(title, 0),
                'model': self.models[round_of[title]] if title in round_of else None,
            }
            for title in self.remaining
        ]


def count_titles(skills: Iterable[SkillTitles]) -> dict[str, dict[str, int]]:
    """The numbers of real and synthetic titles that remain (`titles`), and that were merged into them (`merged`)."""
    before: collections.Counter[str] = collections.Counter()
    after: collections.Counter[str] = collections.Counter()
    for skill in skills:
        before.update(real=len(skill.real), synthetic=len(skill.titles) - len(skill.real))
        after.update(line['source'] for line in skill.lines())
    sources = ('real', 'synthetic')
    return {
        'titles': {source: after[source] for source in sources},
        'merged': {source: before[source] - after[source] for source in sources},
    }


def spent(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Totals of all calls, counted from the journal's records, including those of earlier runs.

    Returns:
      `calls`: the number of answers, which are either `accepted` or `unusable` (by reason). `refusals`: how many of the
      unusable ones are refusals. `retries`: calls without an answer. `tokens`: sums of what the endpoint reports, and
      the number of answers for which it reports nothing. `titles_dropped`: from accepted answers, by reason.
    """
    accepted, unknown, retries = 0, 0, 0
    unusable: collections.Counter[str] = collections.Counter()
    dropped: collections.Counter[str] = collections.Counter()
    tokens = {'input': 0, 'output': 0}
    for record in records:
        if record['kind'] in (ANSWER, UNUSABLE):
            retries += record.get('retries', 0)  # journals of earlier versions have a record for each
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
        'retries': retries,
        'tokens': {**tokens, 'answers_without_usage': unknown},
        'titles_dropped': dict(sorted(dropped.items())),
    }
