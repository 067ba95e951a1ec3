"""A bounded queue: what arrives together is worked on together, in one thread."""

import asyncio
import collections
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

J = TypeVar('J')
A = TypeVar('A')

logger = logging.getLogger(__name__)


class BusyError(Exception):
    """So many texts are waiting that one more would wait too long."""


class _Waiting(NamedTuple, Generic[J]):
    job: J
    texts: int
    answer: asyncio.Future


class Batcher(Generic[J, A]):
    """Hands jobs to a function in batches. All JAX runs in this thread; the event loop only waits.

    Args:
      work: answers a batch, in order. If it raises, every job of the batch fails with that error.
      warm_up: yields between pieces of work that should be done before the first job. Jobs that come earlier are
        answered between the pieces, slowly.
      batch: texts of a batch, at most; a job with more is a batch of its own.
      most: texts that may wait.
      wait_s: how long a job waits for others, in seconds.
      seen: is told the number of texts of each batch.

    Attributes:
      waiting: texts in the queue.
      ready: whether the warm-up is done.
    """

    def __init__(
        self,
        work: Callable[[Sequence[J]], Sequence[A]],
        warm_up: Iterator[None],
        *,
        batch: int,
        most: int,
        wait_s: float,
        seen: Callable[[int], None] = lambda texts: None,
    ):
        self.waiting = 0
        self.ready = False
        self._work, self._warm_up, self._seen = work, warm_up, seen
        self._batch, self._most, self._wait_s = batch, most, wait_s
        self._queue: collections.deque[_Waiting[J]] = collections.deque()
        self._arrived = asyncio.Event()

    async def ask(self, job: J, texts: int) -> A:
        """The answer to a job with so many texts.

        Raises:
          BusyError: the queue has no room for it.
        """
        if self.waiting and self.waiting + texts > self._most:
            raise BusyError(f'{self.waiting} texts are waiting, at most {self._most} may')
        answer = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(job, texts, answer))
        self.waiting += texts
        self._arrived.set()
        return await answer

    async def run(self) -> None:
        """Works until it is cancelled; a batch that has begun is finished."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, 'jax') as thread:
            while True:
                if not self.ready and not self._queue:
                    await self._warm_up_further(thread)
                    continue
                await self._arrived.wait()
                if self.waiting < self._batch:
                    await asyncio.sleep(self._wait_s)
                batch = self._take()
                self._seen(sum(one.texts for one in batch))
                try:
                    answers = await loop.run_in_executor(thread, self._work, [one.job for one in batch])
                except Exception as error:
                    for one in batch:
                        if not one.answer.done():  # its request may have been cancelled
                            one.answer.set_exception(error)
                    continue
                for one, answer in zip(batch, answers, strict=True):
                    if not one.answer.done():
                        one.answer.set_result(answer)

    async def _warm_up_further(self, thread: ThreadPoolExecutor) -> None:
        done = object()
        try:
            piece = await asyncio.get_running_loop().run_in_executor(thread, next, self._warm_up, done)
            self.ready = piece is done
        except Exception:  # an answer would fail as well, and say so
            logger.exception('the warm-up failed')
            self.ready = True

    def _take(self) -> list[_Waiting[J]]:
        """The jobs of the next batch, in the order in which they came."""
        batch, texts = [], 0
        while self._queue and (not batch or texts + self._queue[0].texts <= self._batch):
            batch.append(self._queue.popleft())
            texts += batch[-1].texts
        self.waiting -= texts
        if not self._queue:
            self._arrived.clear()
        return batch
