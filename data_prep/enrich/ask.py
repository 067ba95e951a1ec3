"""Asks for the titles of many skills at once: bounded concurrency, retries, and every answer kept before the next."""

import concurrent.futures
import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_prep.enrich.answers import UnusableError, read_titles
from data_prep.enrich.endpoint import CallFailed, Completion, Endpoint
from data_prep.enrich.prompt import ANSWER as SCHEMA
from data_prep.enrich.prompt import Prompt
from data_prep.enrich.state import ANSWER, FAILED, UNUSABLE, SkillTitles
from uwe_jax.io.errors import DataError

logger = logging.getLogger(__name__)


FIRST_WAIT = 0.5  # seconds before the first retry, doubled for each further one
PROGRESS = 15  # seconds between lines of the log


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is asked.

    Attributes:
      wanted: titles that a skill should have.
      concurrency: calls under way at once.
      attempts: calls in a row without an answer, or answers to one request without a usable title, before giving up.
      max_wait: seconds; no wait between calls is longer.
      seed: of the waits.
    """

    wanted: int
    concurrency: int
    attempts: int
    max_wait: float
    seed: int


class Asker:
    """Gets answers, and keeps them.

    A worker takes one skill, asks until an answer is usable or the attempts are spent, and takes the next skill only
    when the answer is durable. So at most `concurrency` answers are not yet on disk at any moment.

    Args:
      endpoint: whom to ask.
      prompt: what to ask.
      limits: how much.
      keep: makes a record durable, and counts it.
      any_accepted: whether any answer was usable so far, those of earlier runs included.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompt: Prompt,
        limits: Limits,
        keep: Callable[[Mapping[str, Any]], None],
        any_accepted: bool,
    ):
        self._endpoint = endpoint
        self._prompt = prompt
        self._limits = limits
        self._keep = keep
        self._any_accepted = any_accepted
        self._stopped = threading.Event()

    def ask(self, skills: Sequence[SkillTitles]) -> None:
        """Asks one round of each skill, and applies the answers to them.

        Raises:
          DataError: the endpoint does not answer, refuses everything, or an answer cannot be kept. Calls under way are
            waited for and their answers kept.
        """
        done, told = 0, time.monotonic()
        pool = concurrent.futures.ThreadPoolExecutor(self._limits.concurrency)
        try:
            futures = [pool.submit(self._ask, skill) for skill in skills]
            for future in concurrent.futures.as_completed(futures):
                future.result()
                done += 1
                if done == len(skills) or time.monotonic() - told > PROGRESS:
                    told = time.monotonic()
                    logger.info('asked for titles of %d of %d skills', done, len(skills))
        finally:
            self._stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._stopped.clear()

    def _ask(self, skill: SkillTitles) -> None:
        messages = self._prompt.messages(skill.skill, skill.titles, skill.asked(self._limits.wanted))
        about = {'skill': skill.skill.uri, 'round': skill.round + 1}
        failures = 0
        while not skill.given_up(self._limits.attempts) and not self._stopped.is_set():
            try:
                completion = self._endpoint.complete(messages, SCHEMA)
            except CallFailed as failure:
                if failure.about_content:
                    reason = failure.kind
                    self._unusable(
                        skill, {**about, 'reason': reason}, Completion('', reason, None, None, None), failure
                    )
                    continue
                self._keep({'kind': FAILED, **about, 'reason': failure.kind})
                failures += 1
                self._wait(failure, failures, f'{self._limits.seed} {about}')
                continue
            failures = 0
            try:
                if completion.problem:
                    raise UnusableError(completion.problem)
                titles = read_titles(completion.content, skill.skill, skill.titles)
            except UnusableError as error:
                self._unusable(skill, {**about, 'reason': str(error)}, completion, error)
                continue
            record = {'kind': ANSWER, **about, 'titles': titles.usable, 'dropped': titles.dropped, **_usage(completion)}
            self._keep(record)
            self._any_accepted = True
            skill.apply(record)
            return

    def _unusable(self, skill: SkillTitles, about: Mapping[str, Any], completion: Completion, error: Exception) -> None:
        """Keeps the record of an answer without a use; ends the run where nothing was ever of use."""
        record = {'kind': UNUSABLE, **about, **_usage(completion)}
        self._keep(record)
        skill.apply(record)
        if skill.given_up(self._limits.attempts) and not self._any_accepted:
            raise DataError(
                f'{self._endpoint.secrets.endpoint}: {self._limits.attempts} answers about {skill.skill.label!r} were '
                f'unusable ({error}), and none before was of use; does the model obey response_format json_schema?'
            )

    def _wait(self, failure: CallFailed, failures: int, seed: str) -> None:
        """Waits before the next call, or ends the run.

        As long as Retry-After says; else a time that doubles with each failure in a row, times a number between 1/2 and
        1 that depends on the seed, the skill, the round and the failure.
        """
        where = f'{self._endpoint.secrets.endpoint}: {failure}'
        hint = 'what was answered is kept, and the same command goes on'
        if not failure.may_pass:
            raise DataError(f'{where}; expected an answer. Mend the key, the model or --base_url: {hint}')
        if failures == self._limits.attempts:
            raise DataError(f'{where}; {failures} calls in a row failed: {hint}')
        seconds = failure.wait
        if seconds is None:
            longest = min(self._limits.max_wait, FIRST_WAIT * 2 ** (failures - 1))
            seconds = longest * (0.5 + 0.5 * random.Random(f'{seed} {failures}').random())
        elif seconds > self._limits.max_wait:
            raise DataError(
                f'{where}; it asks to wait {seconds:.0f} s, longer than --max_wait={self._limits.max_wait:g}: {hint}'
            )
        self._stopped.wait(seconds)


def _usage(completion: Completion) -> dict[str, Any]:
    return {
        'model': completion.model,
        'input_tokens': completion.input_tokens,
        'output_tokens': completion.output_tokens,
    }
