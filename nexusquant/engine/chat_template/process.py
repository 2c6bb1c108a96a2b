"""A chat template in a process of its own, with limits on time and memory.

Knows how to start, ask and end that process. Must not know roles, tokenizers or models.

A template is a program that came with a model. Counting its steps would not hold it: one operation
(`10 ** 10 ** 10`, `"x" * 10 ** 9`, which jinja computes as it compiles) takes for ever or takes all
memory, and no thread can be stopped inside it. A process can. It stays for the next text, so that
a text costs about a millisecond, and ends with this object or with the program.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, cast

import psutil

_SANDBOX = Path(__file__).with_name("sandbox.py")
_MAX_TEMPLATE_CHARACTERS = 1_000_000
# a busy machine may need its time to start Python; an honest template takes milliseconds
_MAX_START_S = 60.0
_MAX_RENDER_S = 5.0
_MAX_BYTES = 700 * 1024**2
_MAX_LINE_BYTES = 64 * 1024**2
_WATCH_S = 0.05


class TemplateError(Exception):
    """What a template does wrong, as the end of a sentence that begins with its name."""


class TemplateExcessError(TemplateError):
    """It takes more time or memory than it is given."""


class TemplateProcess:
    """Runs one template; its process starts with the first text and is ended with this object.

    Args:
        source: The template.
        variables: What else it may print, such as the tokens that begin and end a text.

    Raises:
        TemplateExcessError: The template is far longer than any honest one.
    """

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        if len(source) > _MAX_TEMPLATE_CHARACTERS:
            raise TemplateExcessError(
                f"has {len(source):,} characters, more than the {_MAX_TEMPLATE_CHARACTERS:,} "
                "that are run"
            )
        self._order = {"template": source, "variables": dict(variables)}
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        add_generation_prompt: bool,
        moment: datetime,
    ) -> str:
        """Write messages with the template.

        Args:
            messages: Dictionaries with "role" and "content", as templates expect them.
            add_generation_prompt: End with the beginning of an answer.
            moment: What the template is told when it asks for the time.

        Raises:
            TemplateError: The template fails.
            TemplateExcessError: It takes too much time or memory; its process was ended.
        """
        request = {
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "moment": moment.replace(tzinfo=None).isoformat(),
        }
        with self._lock:
            if self._running is None or not self._running.is_alive():
                self._running = _Running()
                weakref.finalize(self, self._running.end)
            try:
                return self._running.ask(self._order | request)
            except TemplateExcessError:
                self._end()
                raise
            except TemplateError:
                raise
            except BaseException:
                # an answer that nobody waited for must not be taken for the next one's
                self._end()
                raise

    def _end(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None


class _Running:
    """A started process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_SANDBOX)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._input = cast(IO[bytes], self._process.stdin)
        # pipes have no waiting with an end on Windows, so a thread waits
        self._lines: queue.Queue[bytes] = queue.Queue()
        output = cast(IO[bytes], self._process.stdout)
        threading.Thread(target=_pump, args=(output, self._lines), daemon=True).start()
        self._next_line(_MAX_START_S)

    def is_alive(self) -> bool:
        """Whether it can be asked; a system short of memory may have ended it meanwhile."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, object]) -> str:
        """Return what the template writes."""
        line = json.dumps(request | {"limit_s": 2 * _MAX_RENDER_S}).encode() + b"\n"
        # a process that hangs reads nothing: the writing must not wait for it
        threading.Thread(target=self._write, args=(line,), daemon=True).start()
        answer = self._next_line(_MAX_RENDER_S)
        if not answer.endswith(b"\n"):
            raise TemplateExcessError("takes too much memory, or ends the process that runs it")
        reply = json.loads(answer)
        if "excess" in reply:
            raise TemplateExcessError(reply["excess"])
        if "error" in reply:
            raise TemplateError(reply["error"])
        return reply["text"]

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        # bytes that a process which ended did not take
        with contextlib.suppress(OSError):
            self._input.close()

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._input.write(line)
            self._input.flush()

    def _next_line(self, limit_s: float) -> bytes:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            try:
                return self._lines.get(timeout=_WATCH_S)
            except queue.Empty:
                self._check_memory()
        raise TemplateExcessError(f"does not end within {limit_s:.0f} seconds")

    def _check_memory(self) -> None:
        # the system's own limit is not there everywhere
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self._process.pid).memory_info().rss > _MAX_BYTES:
                raise TemplateExcessError("takes too much memory")


def _pump(stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
    with stream, contextlib.suppress(OSError, ValueError):
        while line := stream.readline(_MAX_LINE_BYTES):
            lines.put(line)
    lines.put(b"")
