"""One thread, one owner's turn at a time, a flag that is looked at."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from nexusquant.engine.events import Event, TextDelta
from nexusquant.engine.worker import Job, JobState, Worker
from nexusquant.errors import CacheStateError, OutOfMemoryError


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def count(number: int, step_s: float = 0.0) -> Iterator[Event]:
    for index in range(number):
        time.sleep(step_s)
        yield TextDelta(str(index))
    return "result"


def text_of(job: Job) -> str:
    return "".join(event.text for batch in job.batches(0.01) for event in batch)


def test_events_arrive_in_order_and_the_result_after_them(worker: Worker) -> None:
    job = worker.submit(lambda: count(12))
    assert text_of(job) == "".join(map(str, range(12)))
    assert (job.state, job.result, job.error) == (JobState.DONE, "result", None)


def test_batches_come_even_when_nothing_happens(worker: Worker) -> None:
    job = worker.submit(lambda: count(1, step_s=0.2))
    assert next(iter(job.batches(0.02))) == []
    assert job.wait(5)


def test_cancel_stops_a_running_job_at_its_next_step_and_closes_it(worker: Worker) -> None:
    closed = threading.Event()

    def work() -> Iterator[Event]:
        try:
            yield from count(10_000, step_s=0.01)
        finally:
            closed.set()

    job = worker.submit(work)
    next(batch for batch in job.batches(0.01) if batch)
    job.cancel()
    assert job.wait(2)
    assert job.state is JobState.CANCELLED
    assert closed.is_set()


def test_a_job_cancelled_while_it_waits_never_begins(worker: Worker) -> None:
    first = worker.submit(lambda: count(30, step_s=0.01))
    began = threading.Event()

    def work() -> Iterator[Event]:
        began.set()
        yield TextDelta("")

    second = worker.submit(work)
    assert second.position == 1
    second.cancel()
    assert second.wait(5)
    assert second.state is JobState.CANCELLED
    assert not began.is_set()
    assert first.wait(5)
    assert first.state is JobState.DONE


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError),
        (MemoryError(), OutOfMemoryError),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), OutOfMemoryError),
        (CacheStateError("told"), CacheStateError),
        (ValueError("told"), ValueError),
        (KeyError("unforeseen"), KeyError),
    ],
)
def test_a_failing_job_says_why_and_the_next_one_works(
    worker: Worker, error: Exception, expected: type[Exception]
) -> None:
    def work() -> Iterator[Event]:
        yield TextDelta("begun")
        raise error

    job = worker.submit(work)
    assert text_of(job) == "begun"
    assert job.state is JobState.FAILED
    assert isinstance(job.error, expected)
    assert text_of(worker.submit(lambda: count(3))) == "012"


def test_fifty_random_starts_and_stops_never_run_two_jobs_at_once(worker: Worker) -> None:
    chance = random.Random(7)
    running, overlaps = 0, 0

    def work() -> Iterator[Event]:
        nonlocal running, overlaps
        running += 1
        overlaps += running > 1
        try:
            yield from count(chance.randint(1, 5), step_s=0.002)
        finally:
            running -= 1

    jobs = []
    for _ in range(50):
        jobs.append(worker.submit(work))
        if chance.random() < 0.5:
            chance.choice(jobs).cancel()
        time.sleep(chance.random() * 0.005)
    assert all(job.wait(10) for job in jobs)
    assert overlaps == 0
    assert running == 0
    assert {job.state for job in jobs} <= {JobState.DONE, JobState.CANCELLED}


def test_closing_cancels_what_waits_and_refuses_more() -> None:
    worker = Worker()
    running = worker.submit(lambda: count(5, step_s=0.01))
    waiting = worker.submit(lambda: count(5))
    worker.close()
    assert running.wait(5)
    assert waiting.wait(5)
    assert waiting.state is JobState.CANCELLED
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(lambda: count(1))


def test_background_work_gives_way_between_its_steps(worker: Worker) -> None:
    order: list[str] = []
    began, may_go_on = threading.Event(), threading.Event()

    def background() -> Iterator[Event]:
        for step in range(3):
            order.append(f"background {step}")
            began.set()
            assert may_go_on.wait(5)
            yield TextDelta("")

    def foreground(name: str) -> Iterator[Event]:
        order.append(name)
        yield TextDelta("")

    job = worker.submit(background, in_background=True)
    assert began.wait(5)
    others = [worker.submit(lambda name=name: foreground(name)) for name in ("one", "two")]
    assert worker.num_waiting == 2
    assert [other.position for other in others] == [0, 1]
    may_go_on.set()
    assert job.wait(5)
    assert order == ["background 0", "one", "two", "background 1", "background 2"]
    assert job.state is JobState.DONE


def test_background_work_begins_after_all_that_waits(worker: Worker) -> None:
    may_go_on, order = threading.Event(), []

    def named(name: str) -> Iterator[Event]:
        assert may_go_on.wait(5)
        order.append(name)
        yield TextDelta("")

    jobs = [
        worker.submit(lambda: named("first")),
        worker.submit(lambda: named("background"), in_background=True),
        worker.submit(lambda: named("second")),
    ]
    may_go_on.set()
    assert all(job.wait(5) for job in jobs)
    assert order == ["first", "second", "background"]


def test_a_cancelled_background_job_ends_before_what_waits(worker: Worker) -> None:
    began, may_go_on, order = threading.Event(), threading.Event(), []

    def background() -> Iterator[Event]:
        try:
            while True:
                began.set()
                assert may_go_on.wait(5)
                yield TextDelta("")
        finally:
            order.append("background")

    def foreground() -> Iterator[Event]:
        order.append("foreground")
        yield TextDelta("")

    job = worker.submit(background, in_background=True)
    assert began.wait(5)
    other = worker.submit(foreground)
    job.cancel()
    may_go_on.set()
    assert job.wait(5)
    assert other.wait(5)
    assert order == ["background", "foreground"]
    assert job.state is JobState.CANCELLED
