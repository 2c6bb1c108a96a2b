"""A fair queue for something that only one may use at a time.

Knows threads. Must not know what is waited for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_S = 0.2
"""How often somebody who waits is asked whether the result is still wanted."""


class Turns:
    """Lets one caller in at a time; the others follow in the order in which they came."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, check_wanted: Callable[[], None]) -> Iterator[None]:
        """Wait for the turn of this caller and keep it until the block is left.

        Args:
            check_wanted: Called about every 0.2 s; what it raises ends the waiting.
        """
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        try:
            self._wait_until_first(ticket, check_wanted)
            yield
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _wait_until_first(self, ticket: object, check_wanted: Callable[[], None]) -> None:
        while True:
            # outside the lock: it may take its time or ask for a turn itself
            check_wanted()
            with self._changed:
                if self._changed.wait_for(lambda: self._queue[0] is ticket, POLL_S):
                    return
