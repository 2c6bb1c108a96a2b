"""Users take turns, each user's jobs keep their order, and some jobs run alone."""

from __future__ import annotations

import contextlib
import functools
import random
import threading
import time
from collections.abc import Iterator

import pytest

from nexusquant.engine.events import Event, TextDelta
from nexusquant.engine.turns import MAX_JOBS_PER_OWNER, MAX_STARTED, Order
from nexusquant.engine.worker import Job, JobState, Worker
from nexusquant.errors import TooManyJobsError


@pytest.fixture
def worker() -> Iterator[Worker]:
    # every event ends a turn
    worker = Worker(slice_s=0.0)
    yield worker
    worker.close()


class Log:
    """Work that notes its steps, held back until `go`."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.go = threading.Event()

    def work(self, name: str, num_steps: int) -> Iterator[Event]:
        assert self.go.wait(10)
        for _ in range(num_steps):
            self.steps.append(name)
            yield TextDelta(name)

    def first(self, name: str) -> int:
        return self.steps.index(name)

    def last(self, name: str) -> int:
        return len(self.steps) - 1 - self.steps[::-1].index(name)


@pytest.fixture
def log() -> Log:
    return Log()


def submit(worker: Worker, log: Log, name: str, num_steps: int = 3, **order: object) -> Job:
    owner = order.pop("owner", name.rstrip("0123456789"))
    return worker.submit(lambda: log.work(name, num_steps), Order(owner=owner, **order))


def run(log: Log, jobs: list[Job]) -> None:
    log.go.set()
    assert all(job.wait(10) for job in jobs)


def test_a_short_question_is_answered_while_anothers_long_text_is_read(worker, log):
    jobs = [submit(worker, log, "long", 1000), submit(worker, log, "short", 3)]
    run(log, jobs)
    assert log.last("short") < 10


def test_many_jobs_of_one_user_do_not_put_off_anothers(worker, log):
    many = [submit(worker, log, f"bob{n}", 5) for n in range(MAX_JOBS_PER_OWNER)]
    one = submit(worker, log, "ada", 5)
    run(log, [*many, one])
    # every step of hers has waited for one of his
    assert log.last("ada") <= 2 * 5


def test_who_asks_again_and_again_does_not_put_off_anothers_long_text(worker, log):
    long = submit(worker, log, "long", 40)
    log.go.set()
    short = []
    while not long.wait(0):
        short.append(submit(worker, log, f"short{len(short)}", 1))
        short[-1].wait(5)
    before = log.steps[: log.last("long")]
    assert before.count("long") * 3 >= len(before)


def test_jobs_of_one_user_keep_their_order_and_never_overlap(worker, log):
    jobs = [submit(worker, log, f"ada{n}", 3) for n in range(5)]
    run(log, [*jobs, submit(worker, log, "bob", 20)])
    hers = [step for step in log.steps if step.startswith("ada")]
    assert hers == [f"ada{n}" for n in range(5) for _ in range(3)]


def test_few_have_begun_at_once(worker, log):
    running, most = set(), 0

    def work(name: str) -> Iterator[Event]:
        nonlocal most
        running.add(name)
        most = max(most, len(running))
        for _ in range(5):
            yield TextDelta("")
        running.discard(name)

    jobs = [worker.submit(lambda n=n: work(n), Order(owner=f"user {n}")) for n in range(12)]
    assert all(job.wait(10) for job in jobs)
    assert 1 < most <= MAX_STARTED


def test_one_long_text_is_read_at_a_time_and_short_questions_go_on_beside_it(worker, log):
    jobs = [
        submit(worker, log, "ada", 20, is_large=True),
        submit(worker, log, "bob", 20, is_large=True),
        submit(worker, log, "eve", 2),
    ]
    run(log, jobs)
    assert log.first("bob") > log.last("ada")
    assert log.last("eve") < log.last("ada")


def test_a_job_that_changes_the_model_runs_alone(worker, log):
    jobs = [
        submit(worker, log, "ada", 10),
        submit(worker, log, "load", 10, owner="", is_alone=True),
        submit(worker, log, "bob", 10),
    ]
    run(log, jobs)
    assert log.last("ada") < log.first("load")
    assert log.last("load") < log.first("bob")
    assert log.steps.count("load") == 10


def test_background_work_waits_for_all_and_gives_way_between_steps(worker, log):
    behind = worker.submit(lambda: log.work("behind", 5), in_background=True)
    jobs = [submit(worker, log, "ada", 3), submit(worker, log, "bob", 3)]
    run(log, [behind, *jobs])
    assert max(log.last("ada"), log.last("bob")) <= log.first("behind") + 6
    assert log.last("behind") == len(log.steps) - 1


def test_a_paused_job_that_is_cancelled_ends_at_once_and_is_closed(worker, log):
    closed = threading.Event()

    def work() -> Iterator[Event]:
        try:
            while True:
                yield TextDelta("")
        finally:
            assert threading.current_thread().name == "nexusquant-engine"
            closed.set()

    endless = worker.submit(work, Order(owner="ada"))
    while endless.state is not JobState.RUNNING:
        time.sleep(0.001)
    log.go.set()
    other = submit(worker, log, "bob", 100)
    endless.cancel()
    assert endless.wait(5)
    assert endless.state is JobState.CANCELLED
    assert closed.is_set()
    assert other.wait(5)


def test_one_users_error_is_not_anothers(worker, log):
    def fails() -> Iterator[Event]:
        yield TextDelta("")
        raise MemoryError

    bad = worker.submit(fails, Order(owner="bob"))
    good = submit(worker, log, "ada", 20)
    run(log, [bad, good])
    assert bad.state is JobState.FAILED
    assert good.state is JobState.DONE
    assert log.steps == ["ada"] * 20


def test_too_many_jobs_of_one_user_are_refused_and_nobody_elses(worker, log):
    jobs = [submit(worker, log, f"bob{n}") for n in range(MAX_JOBS_PER_OWNER)]
    with pytest.raises(TooManyJobsError, match="your requests"):
        submit(worker, log, "bob9")
    jobs.append(submit(worker, log, "ada"))
    # the program's own have no limit
    jobs += [submit(worker, log, "own", owner="") for _ in range(2 * MAX_JOBS_PER_OWNER)]
    run(log, jobs)
    jobs = [submit(worker, log, "bob10")]
    run(log, jobs)


def test_places_in_line_are_those_of_the_turns(log):
    worker = Worker(slice_s=60.0, max_started=1)
    first = submit(worker, log, "ada1")
    while first.state is not JobState.RUNNING:
        time.sleep(0.001)
    waiting = [submit(worker, log, name) for name in ("ada2", "ada3", "bob1", "ada4", "bob2")]
    # bob was not served yet, ada was
    assert [job.position for job in waiting] == [2, 4, 1, 5, 3]
    assert first.position == 0
    run(log, waiting)
    begun = sorted(("ada2", "ada3", "bob1", "ada4", "bob2"), key=log.first)
    assert begun == ["bob1", "ada2", "bob2", "ada3", "ada4"]
    worker.close()


def test_closing_ends_what_has_begun_and_cancels_the_rest(log):
    worker = Worker(slice_s=0.0)
    begun = [submit(worker, log, name, 5) for name in ("ada", "bob")]
    log.go.set()
    while not all(job.state is not JobState.WAITING for job in begun):
        time.sleep(0.001)
    waiting = [submit(worker, log, f"eve{n}", 5) for n in range(4)]
    worker.close()
    assert all(job.wait(5) for job in (*begun, *waiting))
    assert [job.state for job in begun] == [JobState.DONE] * 2
    assert {job.state for job in waiting} <= {JobState.CANCELLED, JobState.DONE}


class Rules:
    """Work that notes every rule that is broken while it runs."""

    def __init__(self) -> None:
        self.running: dict[int, Order] = {}
        self.begun: list[tuple[str, int]] = []
        self.faults: list[str] = []

    def work(self, number: int, order: Order, num_steps: int) -> Iterator[Event]:
        self.look(order, list(self.running.values()))
        self.running[number] = order
        self.begun.append((order.owner, number))
        try:
            for _ in range(num_steps):
                yield TextDelta("")
        finally:
            del self.running[number]

    def look(self, order: Order, others: list[Order]) -> None:
        rules = {
            "two of one owner": order.owner in {other.owner for other in others},
            "not alone": bool(others) and any(o.is_alone for o in (order, *others)),
            "two large ones": order.is_large and any(other.is_large for other in others),
            "too many": len(others) >= MAX_STARTED,
        }
        self.faults += [name for name, is_broken in rules.items() if is_broken]


@pytest.mark.parametrize("seed", range(12))
def test_random_schedules_keep_the_rules(seed):
    chance, rules, jobs = random.Random(seed), Rules(), []
    worker = Worker(slice_s=chance.choice([0.0, 0.002]))
    for number in range(60):
        order = Order(
            owner=chance.choice(["ada", "bob", "eve", "kim", "lee", "sam", ""]),
            is_large=chance.random() < 0.2,
            is_alone=chance.random() < 0.05,
        )
        work = functools.partial(rules.work, number, order, chance.randrange(1, 8))
        with contextlib.suppress(TooManyJobsError):
            jobs.append(worker.submit(work, order))
        if jobs and chance.random() < 0.2:
            chance.choice(jobs).cancel()
        time.sleep(chance.random() * 0.001)
    assert all(job.wait(10) for job in jobs)
    assert len(rules.begun) > 20
    assert (rules.faults, rules.running) == ([], {})
    for owner in {name for name, _ in rules.begun}:
        numbers = [number for name, number in rules.begun if name == owner]
        assert numbers == sorted(numbers)
    worker.close()
