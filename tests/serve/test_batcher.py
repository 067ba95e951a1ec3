"""The queue in front of the one thread that computes."""

import asyncio
import threading

import pytest

from uwe_jax.serve.batcher import Batcher, BusyError


class Work:
    """Doubles numbers, and remembers the batches."""

    def __init__(self):
        self.batches = []
        self.threads = set()

    def __call__(self, jobs):
        self.batches.append(list(jobs))
        self.threads.add(threading.current_thread().name)
        if 13 in jobs:
            raise ValueError('thirteen')
        return [2 * job for job in jobs]


def answers(work, *jobs, warm_up=(), together=True, texts=1, **limits):
    """What jobs are answered with, errors included, that arrive together or one after another."""

    async def ask():
        batcher = Batcher(work, iter(warm_up), **{'batch': 4, 'most': 100, 'wait_s': 0.01} | limits)
        running = asyncio.create_task(batcher.run())
        if together:
            asked = await asyncio.gather(*(batcher.ask(job, texts) for job in jobs), return_exceptions=True)
        else:
            asked = [await batcher.ask(job, texts) for job in jobs]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return asked

    return asyncio.run(ask())


def test_jobs_that_arrive_together_are_worked_on_together():
    work = Work()
    assert answers(work, 1, 2, 3) == [2, 4, 6]
    assert work.batches == [[1, 2, 3]]


def test_jobs_that_arrive_apart_are_worked_on_apart():
    work = Work()
    assert answers(work, 1, 2, together=False) == [2, 4]
    assert work.batches == [[1], [2]]


def test_a_batch_holds_no_more_texts_than_it_may():
    work = Work()
    assert answers(work, *range(10), seen=lambda texts: work.threads.add(texts)) == [*range(0, 20, 2)]
    assert work.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert {4, 2} < work.threads


def test_a_job_with_more_texts_than_a_batch_holds_is_a_batch():
    work = Work()
    assert answers(work, 1, 2, texts=9) == [2, 4]
    assert work.batches == [[1], [2]]


def test_all_work_is_done_in_one_thread():
    work = Work()
    answers(work, *range(10))
    assert len(work.threads) == 1
    assert threading.current_thread().name not in work.threads


def test_a_job_for_which_there_is_no_room_is_refused():
    *fine, refused = answers(Work(), 1, 2, 3, texts=2, most=4)
    assert fine == [2, 4]
    assert isinstance(refused, BusyError)


def test_an_error_fails_the_jobs_of_its_batch_alone():
    work = Work()
    *failed, fine = answers(work, 1, 2, 3, 13, 5)
    assert [str(error) for error in failed] == ['thirteen'] * 4
    assert fine == 10


def test_an_error_in_the_warm_up_is_logged_and_not_the_end(caplog):
    def warm_up():
        yield
        raise ValueError('no memory')

    async def ask():
        batcher = Batcher(Work(), warm_up(), batch=4, most=100, wait_s=0)
        running = asyncio.create_task(batcher.run())
        while not batcher.ready:
            await asyncio.sleep(0.001)
        assert await batcher.ask(1, 1) == 2
        running.cancel()

    asyncio.run(ask())
    assert 'the warm-up failed' in caplog.text


def test_jobs_are_answered_between_two_pieces_of_the_warm_up():
    done = []

    def warm_up():
        for piece in range(1000):
            done.append(piece)
            yield

    answers(Work(), 1, warm_up=warm_up())
    assert len(done) < 1000


def test_a_job_whose_request_has_gone_does_not_disturb_the_others():
    async def ask():
        work = Work()
        batcher = Batcher(work, iter(()), batch=4, most=100, wait_s=0.01)
        gone, stays = (asyncio.create_task(batcher.ask(job, 1)) for job in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        running = asyncio.create_task(batcher.run())
        assert await stays == 4
        running.cancel()

    asyncio.run(ask())


@pytest.mark.parametrize('texts', [1, 100])
def test_an_empty_queue_has_room_for_any_job(texts):
    assert answers(Work(), 1, texts=texts, most=2) == [2]
