"""One thread that owns the device, and the jobs that wait for it.

Knows generators of events. Must not know what they compute, or whose turn it is: that is in
`turns`. A job's cancel flag is looked at between any two events, that is after every prefill chunk
and every token. Other jobs run between any two events of a job, so a generator must not leave a
context open across a `yield` that changes what all share: the model, or a mode of the thread.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from enum import Enum

import torch

from nexusquant.engine.events import Event
from nexusquant.engine.turns import MAX_STARTED, Order, Turns
from nexusquant.errors import NexusquantError, OutOfMemoryError

SLICE_S = 0.5
"""Long enough that changing over costs nothing, short enough to look like both go on."""

_LOG = logging.getLogger(__name__)
Work = Callable[[], Generator[Event, None, object]]


class JobState(str, Enum):
    """Where a job is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


class Job:
    """A piece of work in the queue, as its owner sees it. Safe to use from any thread.

    Attributes:
        id: Unique name.
        order: Whose it is, and beside whom it may run.
        state: Where it is in its life.
        result: What the generator returned, when done.
        error: Why it failed.
    """

    def __init__(self, work: Work, order: Order, worker: Worker) -> None:
        self.id = uuid.uuid4().hex
        self.order = order
        self.state = JobState.WAITING
        self.result: object | None = None
        self.error: Exception | None = None
        self._work = work
        self._worker = worker
        self._generator: Generator[Event, None, object] | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._ended = threading.Event()

    @property
    def position(self) -> int:
        """Jobs that come before this one; 0 when it is next or has begun."""
        return self._worker.position_of(self)

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked it to end."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask it to end: before it begins, or at its next step."""
        self._cancelled.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout_s` seconds; tells whether it has."""
        return self._ended.wait(timeout_s)

    def batches(self, interval_s: float = 0.1) -> Iterator[list[Event]]:
        """Give out events in batches, at least every `interval_s` seconds, until the job has ended.

        Does not raise when the job failed or was cancelled: look at `state` and `error`.
        """
        while True:
            has_ended = self._ended.wait(interval_s)
            yield self._drain()
            if has_ended:
                return

    def _drain(self) -> list[Event]:
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def step(self) -> bool:
        """Do the work up to its next event; called by the worker's thread only.

        Returns:
            Whether it has ended: done, failed or cancelled.
        """
        if self._cancelled.is_set():
            self._end(JobState.CANCELLED)
            return True
        self.state = JobState.RUNNING
        try:
            if self._generator is None:
                self._generator = self._work()
            self._events.put(next(self._generator))
        except StopIteration as end:
            self.result = end.value
            self._end(JobState.CANCELLED if self._cancelled.is_set() else JobState.DONE)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any job
            self.error = _as_told(error)
            self._end(JobState.FAILED)
        else:
            return False
        return True

    def _end(self, state: JobState) -> None:
        try:
            if self._generator is not None:
                self._generator.close()
        except Exception:  # noqa: BLE001 - the thread must outlive any job
            _LOG.exception("A job failed as it was ended")
        # what it held is freed now, not when its owner forgets it
        self._generator = None
        self.state = state
        self._ended.set()


def _as_told(error: Exception) -> Exception:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return _out_of_memory(error)
    if isinstance(error, (NexusquantError, ValueError, OSError)):
        return error
    _LOG.error("A job failed unexpectedly", exc_info=error)
    is_out_of_memory = "not enough memory" in str(error) or "out of memory" in str(error)
    return _out_of_memory(error) if is_out_of_memory else error


def _out_of_memory(error: Exception) -> OutOfMemoryError:
    # the traceback holds the frames, and those hold the tensors
    error.__traceback__ = None
    return OutOfMemoryError(
        "The device ran out of memory. What was read before is safe; choose fewer pages, "
        f"a stronger preset or a smaller model.{_about_the_cap()}"
    )


def _about_the_cap() -> str:
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return ""
    share = torch.cuda.get_per_process_memory_fraction()
    if share == 1:
        return ""
    return (
        f" This program takes {share:.0%} of the GPU at most: --gpu-share changes that, and "
        "closing other programs that use the GPU makes room."
    )


class Worker:
    """Runs jobs on one thread: owners take turns, background jobs give way to all others.

    Args:
        slice_s: Seconds that a job goes on while another owner's waits for its turn.
        max_started: Owners whose jobs may be in the middle of something at once.
    """

    def __init__(self, *, slice_s: float = SLICE_S, max_started: int = MAX_STARTED) -> None:
        self._slice_s = slice_s
        self._turns = Turns(max_started)
        self._background: list[Job] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop, name="nexusquant-engine", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun, those in the background not counted."""
        with self._changed:
            return len(self._turns.waiting)

    def submit(self, work: Work, order: Order | None = None, *, in_background: bool = False) -> Job:
        """Put work into the queue.

        Args:
            work: Called on the worker's thread; its events go to the job.
            order: Whose it is, and beside whom it may run; None: nobody's, like any other.
            in_background: Do it while nothing else is to be done; between any two of its events,
                whatever waits goes first.

        Raises:
            TooManyJobsError: Its owner has too many already.
            RuntimeError: The worker was closed.
        """
        job = Job(work, order or Order(), self)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The engine is closed.")
            if in_background:
                self._background.append(job)
            else:
                self._turns.add(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Cancel what has not begun, and end the thread once everything else has ended."""
        with self._changed:
            self._is_closed = True
            for job in (*self._turns.waiting, *self._background):
                job.cancel()
            self._changed.notify()

    def position_of(self, job: Job) -> int:
        """Jobs that come before one; 0 when it is next or has begun."""
        with self._changed:
            return self._turns.position_of(job)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: not self._turns.is_empty or self._background or self._is_closed
                )
                behind = self._background[0] if self._background else None
                is_due = behind is not None and behind.is_cancelled
                job = None if is_due else self._turns.next()
            if job is not None:
                self._run_slice(job)
            elif behind is not None:
                self._step_behind(behind)
            elif self._is_closed:
                return

    def _run_slice(self, job: Job) -> None:
        """Go on with a job until it has ended, or until another one's turn has come."""
        end = time.monotonic() + self._slice_s
        while not (has_ended := job.step()):
            if time.monotonic() >= end and self._turns.others_wait(job):
                break
        if has_ended:
            with self._changed:
                self._turns.end(job)
            _tidy_up(job)

    def _step_behind(self, job: Job) -> None:
        if job.step():
            with self._changed:
                self._background.remove(job)
            _tidy_up(job)


def _tidy_up(job: Job) -> None:
    if job.error is not None:
        _free_memory()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
