"""What asking will take, before it is asked."""

import dataclasses
from collections.abc import Sequence

from data_prep.enrich.prompt import ANSWER, Prompt
from data_prep.enrich.state import SkillTitles

BYTES_PER_TOKEN = 4  # UTF-8; about right for English under the vocabularies in use
BYTES_PER_TITLE = 40  # in an answer, quotes included


@dataclasses.dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens, as the endpoint's owner asks them."""

    input: float
    output: float

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Calls and tokens, retries left out."""

    calls: int
    input_tokens: int
    output_tokens: int

    def line(self, prices: Prices | None) -> str:
        """For the log."""
        cost = f', ${prices.cost(self.input_tokens, self.output_tokens):.2f}' if prices else ''
        return f'{self.calls} calls, {self.input_tokens} tokens in, {self.output_tokens} out{cost}'


def estimate(skills: Sequence[SkillTitles], prompt: Prompt, wanted: int, rounds: int, attempts: int) -> Estimate:
    """What the next `rounds` rounds take at most, if every answer is usable and no skill gets enough before.

    The rule: a token is four bytes. A call sends its messages, which name all titles known by then, and the schema; it
    brings as many titles as it asks for, of 40 bytes each. How many are merged is not known before, so that the real
    number asked for is a little higher in the first round and lower afterwards.

    Args:
      skills: those that are open are counted.
      prompt: what they are asked.
      wanted: titles that a skill should have.
      rounds: of one skill, those done before included.
      attempts: after how many unusable answers a skill is closed.
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
            # The answer of each round before is sent along.
            total.input_tokens + sum(_tokens(sent + done * count * BYTES_PER_TITLE) for done in range(left)),
            total.output_tokens + left * _tokens(count * BYTES_PER_TITLE),
        )
    return total


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
