"""One thread that owns the device, and the jobs that wait for it.

Knows generators of events. Must not know what they compute. A job's cancel flag is looked at
between any two events, that is after every prefill chunk and every token.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from enum import Enum

import torch

from nexusquant.engine.events import Event
from nexusquant.errors import NexusquantError, OutOfMemoryError

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
        state: Where it is in its life.
        result: What the generator returned, when done.
        error: Why it failed.
    """

    def __init__(self, work: Work, position_of: Callable[[Job], int]) -> None:
        self.id = uuid.uuid4().hex
        self.state = JobState.WAITING
        self.result: object | None = None
        self.error: Exception | None = None
        self._work = work
        self._position_of = position_of
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._ended = threading.Event()

    @property
    def position(self) -> int:
        """Jobs before this one; 0 when it is next or running."""
        return self._position_of(self)

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

    def run(self, between_steps: Callable[[], None] | None = None) -> None:
        """Do the work; called by the worker's thread only.

        Args:
            between_steps: Called after every event: what goes before this job.
        """
        try:
            self._run(between_steps)
        finally:
            self._ended.set()

    def _run(self, between_steps: Callable[[], None] | None) -> None:
        if self._cancelled.is_set():
            self.state = JobState.CANCELLED
            return
        self.state = JobState.RUNNING
        try:
            self.result = self._iterate(self._work(), between_steps)
            state = JobState.CANCELLED if self._cancelled.is_set() else JobState.DONE
        except (torch.OutOfMemoryError, MemoryError) as error:
            self.error, state = _out_of_memory(error), JobState.FAILED
        except (NexusquantError, ValueError, OSError) as error:
            self.error, state = error, JobState.FAILED
        except Exception as error:  # noqa: BLE001 - the thread must outlive any job
            _LOG.exception("A job failed unexpectedly")
            out_of_memory = "not enough memory" in str(error) or "out of memory" in str(error)
            self.error, state = _out_of_memory(error) if out_of_memory else error, JobState.FAILED
        self.state = state

    def _iterate(
        self, work: Generator[Event, None, object], between_steps: Callable[[], None] | None
    ) -> object | None:
        try:
            while not self._cancelled.is_set():
                self._events.put(next(work))
                if between_steps is not None and not self._cancelled.is_set():
                    between_steps()
        except StopIteration as end:
            return end.value
        finally:
            work.close()
        return None


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
    """Runs jobs one after the other on one thread; background jobs give way to all others."""

    def __init__(self) -> None:
        self._waiting: list[Job] = []
        self._background: list[Job] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_busy = False
        self._thread = threading.Thread(target=self._loop, name="nexusquant-engine", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun, those in the background not counted."""
        with self._changed:
            return len(self._waiting)

    def submit(self, work: Work, *, in_background: bool = False) -> Job:
        """Put work at the end of the queue.

        Args:
            work: Called on the worker's thread; its events go to the job.
            in_background: Do it while nothing else waits; between any two of its events, whatever
                waits goes first.

        Raises:
            RuntimeError: The worker was closed.
        """
        job = Job(work, self._position_of)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The engine is closed.")
            (self._background if in_background else self._waiting).append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Cancel what waits, and end the thread once the running job has ended."""
        with self._changed:
            self._is_closed = True
            for job in (*self._waiting, *self._background):
                job.cancel()
            self._changed.notify()

    def _position_of(self, job: Job) -> int:
        with self._changed:
            if job not in self._waiting:
                return 0
            return self._waiting.index(job) + self._is_busy

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._background or self._is_closed)
                if not self._waiting and not self._background:
                    return
                job = None if self._waiting else self._background.pop(0)
            if job is None:
                self._run_waiting()
            else:
                _run(job, self._run_waiting)

    def _run_waiting(self) -> None:
        """Run every job that waits, also those that come meanwhile."""
        while True:
            with self._changed:
                self._is_busy = bool(self._waiting)
                if not self._is_busy:
                    return
                job = self._waiting.pop(0)
            _run(job)


def _run(job: Job, between_steps: Callable[[], None] | None = None) -> None:
    job.run(between_steps)
    if job.error is not None:
        _free_memory()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
