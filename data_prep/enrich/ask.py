"""Asks about many skills in parallel; every answer is kept before the next question is asked."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data_prep.enrich.answers import UnusableError, read_titles
from data_prep.enrich.endpoint import CallFailed, Completion, Endpoint
from data_prep.enrich.prompt import Prompt
from data_prep.enrich.state import ANSWER, UNUSABLE, SkillTitles
from uwe_jax.io.console import Progress
from uwe_jax.io.errors import DataError


class Asker:
    """Asks for titles, and keeps the answers.

    A worker takes one skill, asks until an answer is usable or the attempts are used up, and takes the next skill only
    when the answer is on disk. So at most `concurrency` answers can be lost.

    Args:
      endpoint: the model to ask.
      prompt: what to ask.
      keep: makes a record durable.
      any_accepted: whether any answer has been usable so far, including those of earlier runs.
      wanted: titles that a skill should have.
      concurrency: calls in parallel.
      attempts: a skill is given up after this many unusable answers.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompt: Prompt,
        keep: Callable[[Mapping[str, Any]], None],
        any_accepted: bool,
        wanted: int,
        concurrency: int,
        attempts: int,
    ):
        self._endpoint, self._prompt, self._keep, self._any_accepted = endpoint, prompt, keep, any_accepted
        self._wanted, self._concurrency, self._attempts = wanted, concurrency, attempts

    def ask(self, skills: Sequence[SkillTitles]) -> None:
        """Asks one round about each skill, and applies the answers.

        Raises:
          DataError: the endpoint does not answer or refuses everything, or an answer cannot be kept. It is raised when
            the calls in progress have ended and their answers are kept.
        """
        pool = concurrent.futures.ThreadPoolExecutor(self._concurrency)
        try:
            futures = [pool.submit(self._ask, skill) for skill in skills]
            with Progress('asking for titles', len(skills), 'skills') as progress:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
                    progress.advance()
        except BaseException:
            self._endpoint.stopped.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, skill: SkillTitles) -> None:
        endpoint, attempts = self._endpoint, self._attempts
        messages = self._prompt.messages(skill.skill, skill.titles, skill.asked(self._wanted))
        while not skill.given_up(attempts) and not endpoint.stopped.is_set():
            completion = Completion()
            try:
                completion = endpoint.complete(messages)
                titles = read_titles(completion.content, skill.skill, skill.titles, completion.problem is not None)
            except CallFailed as failure:
                if not failure.refused:
                    raise DataError(
                        f'{endpoint.secrets.endpoint}: {failure}; the answers are kept, and the same command continues'
                    ) from failure
                reason, words = failure.refused, str(failure)
            except UnusableError as error:
                reason, words = completion.problem or str(error), endpoint.secrets.excerpt(completion.content)
            else:
                self._keep_and_apply(skill, completion, kind=ANSWER, titles=titles.usable, dropped=titles.dropped)
                self._any_accepted = True
                return
            self._keep_and_apply(skill, completion, kind=UNUSABLE, reason=reason)
            if skill.given_up(attempts) and not self._any_accepted:
                raise DataError(
                    f'{endpoint.secrets.endpoint}: {attempts} answers about {skill.skill.label!r} were unusable '
                    f'({reason}), and none before was usable; the last one: {words or "without text"}'
                )

    def _keep_and_apply(self, skill: SkillTitles, completion: Completion, **about: Any) -> None:
        usage = dataclasses.asdict(completion)
        record = {'skill': skill.skill.uri, 'round': skill.round + 1, **about}
        record |= {name: usage[name] for name in ('model', 'input_tokens', 'output_tokens', 'retries')}
        self._keep(record)
        skill.apply(record)
