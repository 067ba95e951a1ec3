"""Estimates what asking will cost, before anything is asked."""

import dataclasses
from collections.abc import Sequence

from data_prep.enrich.prompt import ANSWER, Prompt
from data_prep.enrich.state import SkillTitles

BYTES_PER_TOKEN = 4  # of UTF-8; about right for English with common vocabularies
BYTES_PER_TITLE = 40  # in an answer, quotes included


@dataclasses.dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    input: float
    output: float

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """The cost in US dollars."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Calls and tokens, without retries."""

    calls: int
    input_tokens: int
    output_tokens: int

    def line(self, prices: Prices | None) -> str:
        """The estimate as text."""
        cost = f', ${prices.cost(self.input_tokens, self.output_tokens):.2f}' if prices else ''
        return f'{self.calls} calls, {self.input_tokens} tokens in, {self.output_tokens} out{cost}'


def estimate(skills: Sequence[SkillTitles], prompt: Prompt, wanted: int, rounds: int, attempts: int) -> Estimate:
    """Estimates `rounds` rounds in which every answer is usable and no skill has enough titles before the last round.

    A token is counted as four bytes. A call sends the schema and its messages, which list all titles known so far; it
    returns as many titles as it asks for, 40 bytes each. How many titles will be merged is unknown, so the real numbers
    are a little higher in the first round and lower afterwards.

    Args:
      skills: only those that need more titles are counted.
      prompt: the messages of a call.
      wanted: titles that a skill should have.
      rounds: per skill, including those already done.
      attempts: unusable answers after which a skill is given up.
    """
    schema = len(str(ANSWER))
    total = Estimate(0, 0, 0)
    for skill in skills:
        if not skill.open(wanted, rounds, attempts):
            continue
        count = skill.asked(wanted)
        messages = prompt.messages(skill.skill, skill.titles, count)
        sent = schema + sum(len(message['content'].encode()) for message in messages)
        left = rounds - skill.round
        total = Estimate(
            total.calls + left,
            # The answers of earlier rounds are sent along.
            total.input_tokens + sum(_tokens(sent + done * count * BYTES_PER_TITLE) for done in range(left)),
            total.output_tokens + left * _tokens(count * BYTES_PER_TITLE),
        )
    return total


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
