"""Notes which files this process opens and whom it calls. Knows Python's audit events alone."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Watch:
    """What was opened and called while it was on. There is one for a process: hooks stay."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_on = False
        self.opened: list[str] = []
        self.called: list[str] = []
        sys.addaudithook(self._note)

    @contextmanager
    def on(self) -> Iterator[Watch]:
        """Watch from here to the end, beginning with empty lists."""
        with self._lock:
            self.opened, self.called = [], []
            self._is_on = True
            try:
                yield self
            finally:
                self._is_on = False

    def opened_below(self, *folders: Path) -> list[str]:
        """Files that were opened in one of these folders, or in one below."""
        below = tuple(str(folder) for folder in folders)
        return [path for path in self.opened if path.startswith(below)]

    def _note(self, event: str, arguments: tuple) -> None:
        if not self._is_on:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            self.opened.append(os.path.abspath(os.fsdecode(arguments[0])))
        elif event == "socket.connect":
            self.called.append(str(arguments[1]))
        elif event == "socket.getaddrinfo":
            self.called.append(str(arguments[:2]))
