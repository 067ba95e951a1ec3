"""Asks about many skills in parallel, with retries; every answer is kept before the next question is asked."""

import concurrent.futures
import dataclasses
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_prep.enrich.answers import UnusableError, read_titles
from data_prep.enrich.endpoint import CallFailed, Completion, Endpoint
from data_prep.enrich.prompt import ANSWER as SCHEMA
from data_prep.enrich.prompt import Prompt
from data_prep.enrich.state import ANSWER, FAILED, UNUSABLE, SkillTitles
from uwe_jax.io.console import Progress
from uwe_jax.io.errors import DataError

FIRST_WAIT = 0.5  # s before the first retry, doubled for each further one


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is asked.

    Attributes:
      wanted: titles that a skill should have.
      concurrency: calls in parallel.
      attempts: the run ends after this many failed calls in a row, and a skill is given up after this many unusable
        answers.
      max_wait: the longest wait between calls, in seconds.
      seed: of the waits.
    """

    wanted: int
    concurrency: int
    attempts: int
    max_wait: float
    seed: int


class Asker:
    """Asks for titles, and keeps the answers.

    A worker takes one skill, asks until an answer is usable or the attempts are used up, and takes the next skill only
    when the answer is on disk. So at most `concurrency` answers can be lost.

    Args:
      endpoint: the model to ask.
      prompt: what to ask.
      limits: how much to ask.
      keep: makes a record durable.
      any_accepted: whether any answer has been usable so far, including those of earlier runs.
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
        """Asks one round about each skill, and applies the answers.

        Raises:
          DataError: the endpoint does not answer or refuses everything, or an answer cannot be kept. It is raised when
            the calls in progress have ended and their answers are kept.
        """
        pool = concurrent.futures.ThreadPoolExecutor(self._limits.concurrency)
        try:
            futures = [pool.submit(self._ask, skill) for skill in skills]
            with Progress('asking for titles', len(skills), 'skills') as progress:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
                    progress.advance()
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
                self._wait(failure, failures, about)
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
        """Keeps the record of an unusable answer; ends the run if no answer was ever usable."""
        record = {'kind': UNUSABLE, **about, **_usage(completion)}
        self._keep(record)
        skill.apply(record)
        if skill.given_up(self._limits.attempts) and not self._any_accepted:
            raise DataError(
                f'{self._endpoint.secrets.endpoint}: {self._limits.attempts} answers about {skill.skill.label!r} were '
                f'unusable ({error}), and none before was usable; does the model support response_format json_schema?'
            )

    def _wait(self, failure: CallFailed, failures: int, about: Mapping[str, Any]) -> None:
        """Waits before the next call.

        Raises:
          DataError: another call would be useless, or would have to wait too long.
        """
        where = f'{self._endpoint.secrets.endpoint}: {failure}'
        hint = 'the answers are kept, and the same command continues'
        if not failure.may_pass:
            raise DataError(f'{where}; expected an answer. Correct the key, the model or --base_url: {hint}')
        if failures == self._limits.attempts:
            raise DataError(f'{where}; {failures} calls in a row failed: {hint}')
        max_wait = self._limits.max_wait
        if failure.wait is not None and failure.wait > max_wait:
            raise DataError(
                f'{where}; it asks to wait {failure.wait:.0f} s, longer than --max_wait={max_wait:g}: {hint}'
            )
        seconds = backoff(failures, max_wait, f'{self._limits.seed} {about}') if failure.wait is None else failure.wait
        self._stopped.wait(seconds)


def backoff(failures: int, max_wait: float, seed: str) -> float:
    """Seconds to wait after `failures` failures in a row: doubled for each, and shortened at random by up to half."""
    longest = min(max_wait, FIRST_WAIT * 2 ** (failures - 1))
    return longest * (0.5 + 0.5 * random.Random(f'{seed} {failures}').random())


def _usage(completion: Completion) -> dict[str, Any]:
    return {
        'model': completion.model,
        'input_tokens': completion.input_tokens,
        'output_tokens': completion.output_tokens,
    }
