"""A fair queue for something that only one may use at a time.

Knows threads. Must not know what is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

POLL_S = 0.2
"""How often somebody who waits is asked whether the result is still wanted."""


@dataclass(frozen=True, eq=False)
class _Ticket:
    owner: str


class Turns:
    """Lets one caller in at a time: owners take turns, an owner's callers keep their order."""

    def __init__(self) -> None:
        self._waiting: list[_Ticket] = []
        self._inside: _Ticket | None = None
        self._last_turn: dict[str, int] = {}
        self._num_turns = 0
        self._changed = threading.Condition()

    def num_waiting(self, owner: str) -> int:
        """Callers of an owner that are not let in yet."""
        with self._changed:
            return sum(ticket.owner == owner for ticket in self._waiting)

    @contextmanager
    def take(self, check_wanted: Callable[[], None], owner: str = "") -> Iterator[None]:
        """Wait for the turn of this caller and keep it until the block is left.

        Args:
            check_wanted: Called about every 0.2 s; what it raises ends the waiting.
            owner: For whom; who was let in longest ago comes first.
        """
        ticket = _Ticket(owner)
        with self._changed:
            self._waiting.append(ticket)
        try:
            self._wait_for_turn(ticket, check_wanted)
            yield
        finally:
            self._leave(ticket)

    def _wait_for_turn(self, ticket: _Ticket, check_wanted: Callable[[], None]) -> None:
        while True:
            # outside the lock: it may take its time or ask for a turn itself
            check_wanted()
            with self._changed:
                if self._changed.wait_for(lambda: self._next() is ticket, POLL_S):
                    self._waiting.remove(ticket)
                    self._inside = ticket
                    self._num_turns += 1
                    self._last_turn[ticket.owner] = self._num_turns
                    return

    def _next(self) -> _Ticket | None:
        if self._inside is not None:
            return None
        return min(self._waiting, key=lambda one: self._last_turn.get(one.owner, 0), default=None)

    def _leave(self, ticket: _Ticket) -> None:
        with self._changed:
            if self._inside is ticket:
                self._inside = None
            else:
                self._waiting.remove(ticket)
            if self._inside is None and not self._waiting:
                self._last_turn.clear()
            self._changed.notify_all()
