"""Whose turn it is: users one after the other, and each user's jobs in their order.

Knows jobs by their owners. Must not know threads, generators or the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexusquant.errors import TooManyJobsError

if TYPE_CHECKING:
    from nexusquant.engine.worker import Job

MAX_STARTED = 4
"""Each holds its cache, so more would share the memory in smaller parts."""

MAX_JOBS_PER_OWNER = 8
"""Waiting or begun: a person's pages ask for one thing each, and rarely more at a time."""

LARGE_CHARACTERS = 20_000
"""A text from this length on is a large one: some 5,000 tokens."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Whose a job is, and beside whom it may run.

    Args:
        owner: Whose: their jobs run one after the other. "" is the program's own: no limit.
        is_large: It reads a long text, whose exact keys and values fill the memory for a while:
            one such job at a time.
        is_alone: It changes the model, so nothing else may be in the middle of something.
        is_small: It only gives memory back, so it is never one too many.
    """

    owner: str = ""
    is_large: bool = False
    is_alone: bool = False
    is_small: bool = False


class Turns:
    """Jobs that wait and jobs that have begun; the owner who was served longest ago comes first.

    Not safe to use from several threads: the worker's lock guards it.

    Args:
        max_started: Jobs that may have begun at once.
    """

    def __init__(self, max_started: int = MAX_STARTED) -> None:
        self._max_started = max_started
        self.waiting: list[Job] = []
        """In the order in which they came."""
        self.started: list[Job] = []
        self._last_turn: dict[str, int] = {}
        self._num_turns = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.started

    def add(self, job: Job) -> None:
        """Put a job at the end.

        Raises:
            TooManyJobsError: Its owner has too many already.
        """
        owner = job.order.owner
        own = sum(other.order.owner == owner for other in (*self.waiting, *self.started))
        if owner and own >= MAX_JOBS_PER_OWNER and not job.order.is_small:
            raise TooManyJobsError(
                f"{own} of your requests are waiting or running already. Wait for one of them, or "
                "stop it on its page."
            )
        self.waiting.append(job)

    def next(self) -> Job | None:
        """The job whose turn it is; a waiting one has begun then. None if there is none.

        A cancelled one comes first: it only has to end.
        """
        everybody = (*self.started, *self.waiting)
        job = next((job for job in everybody if job.is_cancelled), None)
        if job is None:
            candidates = [*self.started, *_may_begin(self.waiting, self.started, self._max_started)]
            job = min(candidates, key=lambda one: self._turn_of(one), default=None)
        if job is not None and job in self.waiting:
            self.waiting.remove(job)
            self.started.append(job)
        if job is not None:
            self._num_turns += 1
            self._last_turn[job.order.owner] = self._num_turns
        return job

    def others_wait(self, job: Job) -> bool:
        """Whether another job could go on or begin now beside this one, or has to end."""
        waiting = tuple(self.waiting)
        return (
            len(self.started) > 1
            or any(other.is_cancelled for other in waiting)
            or bool(_may_begin(waiting, (job,), self._max_started))
        )

    def end(self, job: Job) -> None:
        """The job has ended."""
        self.started.remove(job)
        if self.is_empty:
            self._last_turn.clear()

    def position_of(self, job: Job) -> int:
        """Jobs that begin before this one, and one more if something has to end first."""
        if job not in self.waiting:
            return 0
        waiting, last_turn, number = list(self.waiting), dict(self._last_turn), self._num_turns
        before = 0 if _may_begin(waiting, self.started, self._max_started) else 1
        # as if each began as soon as the one before it has ended
        while waiting:
            first = min(
                _may_begin(waiting, (), 1), key=lambda one: last_turn.get(one.order.owner, 0)
            )
            if first is job:
                break
            waiting.remove(first)
            number += 1
            last_turn[first.order.owner] = number
            before += 1
        return before

    def _turn_of(self, job: Job) -> int:
        return self._last_turn.get(job.order.owner, 0)


def _may_begin(waiting: Sequence[Job], started: Sequence[Job], max_started: int) -> tuple[Job, ...]:
    """The jobs that may begin now beside those that have: at most one of each owner."""
    if len(started) >= max_started or any(job.order.is_alone for job in started):
        return ()
    alone = next((index for index, job in enumerate(waiting) if job.order.is_alone), None)
    if alone is not None:
        # what came after it must not go on putting it off
        waiting = waiting[:alone] or (() if started else waiting[:1])
    first: dict[str, Job] = {}
    for job in waiting:
        # an owner's first one stands for all: theirs keep their order
        first.setdefault(job.order.owner, job)
    busy = {job.order.owner for job in started}
    has_large = any(job.order.is_large for job in started)
    return tuple(
        job
        for owner, job in first.items()
        if owner not in busy and not (has_large and job.order.is_large)
    )
