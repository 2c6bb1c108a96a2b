"""One request, followed on a thread of its own, so that a page may leave and come back.

Knows jobs and events; no widget. A page polls `snapshots`; nothing is lost when it goes away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from nexusquant.engine import (
    Event,
    Finished,
    Job,
    JobState,
    LoadProgress,
    PrefillProgress,
    RereadProgress,
    SelfTestProgress,
    TextDelta,
)
from nexusquant.errors import NexusquantError

POLL_S = 0.1

STILL_S = 1.0
"""Seconds after which is told again what has not changed."""

_log = logging.getLogger(__name__)


class Phase(str, Enum):
    """Where a request stands, as a person would say it."""

    LOADING = "loading"
    """The model it needs is not there yet."""
    WAITING = "waiting"
    """Other requests come first."""
    READING = "reading"
    ANSWERING = "answering"
    STOPPING = "stopping"
    """Stop was pressed; the engine ends its current step."""
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """True when nothing more will come."""
        return self in (Phase.DONE, Phase.STOPPED, Phase.FAILED)


@dataclass(frozen=True)
class Snapshot:
    """A request at one moment.

    Args:
        phase: Where it stands.
        position: Requests before it, while it waits.
        text: The answer so far.
        progress: The newest word on loading, reading, reading again or testing.
        finished: The end with its figures, once there.
        error: Why it failed.
        result: What the job returned.
    """

    phase: Phase
    position: int = 0
    text: str = ""
    progress: PrefillProgress | RereadProgress | LoadProgress | SelfTestProgress | None = None
    finished: Finished | None = None
    error: Exception | None = None
    result: object | None = None


class Follower:
    """Runs jobs one after another as soon as they may begin, and keeps what they report.

    Args:
        steps: Each hands work to the engine and returns its job; one that does not end well is
            the last.
        may_begin: Asked until True; what it raises ends the request as failed.
        at_end: Called once, however the request ended, before any snapshot says it is over; given
            all but that. A request may end before its maker knows the follower.
    """

    def __init__(
        self,
        *steps: Callable[[], Job],
        may_begin: Callable[[], bool] = lambda: True,
        at_end: Callable[[Snapshot], object] = lambda _: None,
    ) -> None:
        self._steps = steps
        self._may_begin = may_begin
        self._at_end = at_end
        self._job: Job | None = None
        self._stop = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._parts: list[str] = []
        self._now = Snapshot(Phase.READING)
        threading.Thread(target=self._follow, name="follower", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """True when nothing more will come."""
        return self._over.is_set()

    def stop(self) -> None:
        """Ask the engine to end this request before its next step. Any thread, any time."""
        with self._lock:
            self._stop.set()
            if self._job is not None:
                self._job.cancel()
            if not self._now.phase.is_over:
                self._now = replace(self._now, phase=Phase.STOPPING)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the request is over; False when the time ran out first."""
        return self._over.wait(timeout_s)

    def snapshot(self) -> Snapshot:
        """The request now."""
        with self._lock:
            position = self._job.position if self._job and not self.is_over else 0
            return replace(self._now, text="".join(self._parts), position=position)

    def snapshots(self, interval_s: float = POLL_S) -> Iterator[Snapshot]:
        """One snapshot at once, then one per change at most every interval, and the last one."""
        last, told_at = self.snapshot(), time.monotonic()
        yield last
        while not last.phase.is_over:
            self._over.wait(interval_s)
            now = self.snapshot()
            # only at a yield does whoever follows notice that nobody looks any more
            if now != last or time.monotonic() - told_at >= STILL_S:
                told_at = time.monotonic()
                yield now
            last = now

    def _follow(self) -> None:
        # the one catch-all: whatever goes wrong must reach the person who waits for it
        try:
            end = self._run()
        except Exception as error:  # noqa: BLE001
            end = _failed(error)
        try:
            self._at_end(self.snapshot())
        finally:
            # together, or the last snapshot would show a desk that is not yet settled
            with self._lock:
                self._now = replace(self._now, **end)
                self._over.set()

    def _run(self) -> dict[str, Any]:
        while not self._may_begin():
            self._enter(Phase.LOADING)
            if self._stop.wait(POLL_S):
                return {"phase": Phase.STOPPED}
        end: dict[str, Any] = {"phase": Phase.DONE}
        for step in self._steps:
            end = self._run_step(step)
            if end["phase"] is not Phase.DONE:
                break
        return end

    def _enter(self, phase: Phase) -> None:
        with self._lock:
            if not self._stop.is_set():
                self._now = replace(self._now, phase=phase)

    def _run_step(self, step: Callable[[], Job]) -> dict[str, Any]:
        job = step()
        with self._lock:
            self._job = job
            if self._stop.is_set():
                job.cancel()
        for events in job.batches(POLL_S):
            self._absorb(job, events)
        return _end_of(job)

    def _absorb(self, job: Job, events: list[Event]) -> None:
        with self._lock:
            for event in events:
                self._take(event)
            if self._stop.is_set():
                self._now = replace(self._now, phase=Phase.STOPPING)
            elif job.state is JobState.WAITING:
                self._now = replace(self._now, phase=Phase.WAITING)
            elif self._now.phase in (Phase.LOADING, Phase.WAITING):
                self._now = replace(self._now, phase=Phase.READING)

    def _take(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._parts.append(event.text)
            self._now = replace(self._now, phase=Phase.ANSWERING)
        elif isinstance(event, Finished):
            self._now = replace(self._now, finished=event)
        else:
            self._now = replace(self._now, phase=Phase.READING, progress=event)


def run_once(action: Callable[[], object]) -> Generator[Event, None, None]:
    """Work for the engine's queue that reports nothing: to free a cache in its turn, say."""
    action()
    return
    yield  # makes this a generator


def _end_of(job: Job) -> dict[str, Any]:
    if job.state is JobState.FAILED and job.error is not None:
        return _failed(job.error)
    if job.state is JobState.CANCELLED:
        return {"phase": Phase.STOPPED}
    return {"phase": Phase.DONE, "result": job.result}


def _failed(error: Exception) -> dict[str, Any]:
    is_expected = isinstance(error, NexusquantError | ValueError)
    _log.log(
        logging.INFO if is_expected else logging.ERROR,
        "request failed: %s",
        error,
        exc_info=None if is_expected else error,
    )
    return {"phase": Phase.FAILED, "error": error}
