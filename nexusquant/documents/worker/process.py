"""Starts the reader process and takes what it says, within limits of time, memory and size.

Knows the process and its lines of JSON. Must not know what kind of file is read.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import psutil

from nexusquant.documents.document import PasswordError
from nexusquant.documents.worker.turns import POLL_S
from nexusquant.errors import DocumentError

MAIN = Path(__file__).with_name("main.py")

_MEMORY_BYTES = 1000 * 1024**2
# a process that ended above this share of its memory most likely ended for want of more
_FULL_SHARE = 0.6
_WATCH_S = 0.05
_MAX_SILENCE_S = 12.0
# for the whole file: by its size, so that a small file holds up others for seconds alone
_START_S = 18.0
_PER_MEGABYTE_S = 30.0
_MAX_TOTAL_S = 300.0
_MAX_CHARACTERS = 40_000_000
_MAX_LINE_BYTES = 32 * 1024**2

IsWanted = Callable[[], bool]


class ReadingStoppedError(DocumentError):
    """Nobody wants the document any more; its reading was stopped."""


class ReaderEndedError(DocumentError):
    """The process ended before the file did.

    Args:
        why: "crashed", "memory" or "silent".
    """

    def __init__(self, why: str) -> None:
        super().__init__(_ENDINGS[why])
        self.why = why


_ENDINGS = {
    "crashed": "Reading the file failed: it is damaged in a way that ends the reader. Saving it "
    "anew from another program often repairs it.",
    "memory": "Reading the file takes more memory than one file may use "
    f"({_MEMORY_BYTES // 1024**2} MB) and was stopped. It may be damaged, or built to unpack "
    "without end; save the part you need as a file of its own and open that.",
    "silent": "Reading the file makes no progress and was stopped. It may be damaged; saving it "
    "anew from another program often repairs it.",
}


class Reading:
    """The reading of one file: what it may cost altogether, over all processes it takes.

    Args:
        num_bytes: Size of the file; a large one gets more time.
        is_wanted: Asked about every 0.2 s, in the thread that reads; once it is False, the process
            is killed. None: always wanted.
    """

    def __init__(self, num_bytes: int, is_wanted: IsWanted | None = None) -> None:
        self._is_wanted = is_wanted
        self._num_bytes = num_bytes
        self._deadline: float | None = None
        self._num_characters = 0
        self._asked_at = 0.0

    def check_wanted(self) -> None:
        """Raise `ReadingStoppedError` if nobody wants the document any more."""
        if self._is_wanted is not None and not self._is_wanted():
            raise ReadingStoppedError("Reading was stopped: the document is no longer wanted.")

    def messages(self, reader: str, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Let a new process read, and yield what it says.

        Args:
            reader: Full name of a module with `read(request) -> Iterator[dict]`; it runs in the
                process and can import whatever needs neither torch nor the engine.
            request: What `read` is given; plain JSON values.

        Raises:
            DocumentError: What `read` raised (`PasswordError` too), too long, or too much text.
            ReaderEndedError: The process crashed, took too much memory, or hung.
            ReadingStoppedError: Nobody wants the document any more.
        """
        order = {"reader": reader, "request": dict(request), "memory_bytes": _MEMORY_BYTES}
        if self._deadline is None:
            # from here on: waiting for a turn is not the file's fault
            total_s = min(_START_S + _PER_MEGABYTE_S * self._num_bytes / 1e6, _MAX_TOTAL_S)
            self._deadline = time.monotonic() + total_s
        with _Process(order) as process:
            while (message := self._next(process)) is not None:
                if "refused" in message:
                    raise _refusal(message)
                self._count(message)
                yield message

    def _next(self, process: _Process) -> dict[str, Any] | None:
        silent_at = time.monotonic() + _MAX_SILENCE_S
        while True:
            self._ask_sometimes()
            process.check_memory()
            if (line := process.line(_WATCH_S)) is not None:
                message = process.parse(line)
                return None if message.get("is_done") else message
            self._check_time()
            if time.monotonic() > silent_at:
                raise ReaderEndedError("silent")

    def _ask_sometimes(self) -> None:
        if time.monotonic() - self._asked_at >= POLL_S:
            self.check_wanted()
            self._asked_at = time.monotonic()

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise DocumentError(
                "Reading the file took too long and was stopped. Save the pages you need as a "
                "file of their own and open that."
            )

    def _count(self, message: dict[str, Any]) -> None:
        self._check_time()
        self._num_characters += len(str(message.get("text", "")))
        if self._num_characters > _MAX_CHARACTERS:
            raise DocumentError(
                f"The file holds more than {_MAX_CHARACTERS // 10**6} million characters of text. "
                "Split it and open the part you need."
            )


class _Process:
    """The process itself; ended when the block is left, whatever it does."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._lines: queue.Queue[bytes] = queue.Queue(maxsize=2)
        self._is_closed = threading.Event()
        self._peak_bytes = 0
        self._watched_at = 0.0

    def __enter__(self) -> _Process:
        try:
            self._popen = subprocess.Popen(
                [sys.executable, str(MAIN)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise DocumentError(
                f"The program that reads files could not be started: {error.strerror}. Close "
                "other programs, or start this one anew, and open the file again."
            ) from error
        self._input = cast(IO[bytes], self._popen.stdin)
        # pipes have no waiting with an end on Windows, so a thread waits
        output = cast(IO[bytes], self._popen.stdout)
        threading.Thread(target=self._pump, args=(output,), daemon=True).start()
        try:
            self._input.write(json.dumps(self._order).encode() + b"\n")
            # kept open: the process ends when it closes, and so with its parent
            self._input.flush()
        except OSError:
            # it ended at once, which the missing answer tells
            pass
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        self._popen.kill()
        self._popen.wait()
        # bytes that a process which ended did not take
        with contextlib.suppress(OSError):
            self._input.close()

    def _pump(self, stream: IO[bytes]) -> None:
        with stream:
            while not self._is_closed.is_set():
                line = stream.readline(_MAX_LINE_BYTES)
                while not self._is_closed.is_set():
                    try:
                        self._lines.put(line, timeout=POLL_S)
                        break
                    except queue.Full:
                        continue
                if not line:
                    return

    def line(self, timeout_s: float) -> bytes | None:
        """Return the next line, an empty one at the end, or None if none came in time."""
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def parse(self, line: bytes) -> dict[str, Any]:
        """Read a line as a message; half a line means that the process died as it wrote."""
        try:
            message = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            is_full = self._peak_bytes > _FULL_SHARE * _MEMORY_BYTES
            raise ReaderEndedError("memory" if is_full else "crashed")
        if message.get("ended") == "memory":
            raise ReaderEndedError("memory")
        return message

    def check_memory(self) -> None:
        """Raise if the process holds too much; the system's own limit is not there everywhere."""
        if time.monotonic() - self._watched_at < _WATCH_S:
            return
        self._watched_at = time.monotonic()
        try:
            memory = psutil.Process(self._popen.pid).memory_info()
        except psutil.Error:
            return
        # Windows may have moved what is not used to its page file, and counts that as private
        num_bytes = max(memory.rss, getattr(memory, "private", 0))
        self._peak_bytes = max(self._peak_bytes, num_bytes)
        if num_bytes > _MEMORY_BYTES:
            raise ReaderEndedError("memory")


def _refusal(message: dict[str, Any]) -> DocumentError:
    kind = PasswordError if message.get("is_locked") else DocumentError
    return kind(str(message["refused"]))
