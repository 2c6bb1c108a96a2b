"""A chat template in a process of its own, with limits on time and memory.

Knows how to start, ask and end that process. Must not know roles, tokenizers or models.
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
from typing import TextIO, cast

import psutil

from nexusquant.errors import UnsupportedModelError

_WORKER = Path(__file__).with_name("template_worker.py")
_MAX_TEMPLATE_CHARACTERS = 1_000_000
# an honest template takes milliseconds; a busy machine may still need its time to start Python
_MAX_START_S = 60.0
_MAX_RENDER_S = 6.0
_MAX_BYTES = 700 * 1024**2
_LOOK_S = 0.05


class EndlessTemplateError(UnsupportedModelError):
    """A template takes more time or memory than it is given."""


class TemplateProcess:
    """Runs one template; its process starts with the first text and is ended with this object.

    Args:
        label: How to name the template in messages.
        source: The template.
        variables: What else it may print, such as the tokens that begin and end a text.

    Raises:
        UnsupportedModelError: The template is far longer than any honest one.
    """

    def __init__(self, label: str, source: str, variables: Mapping[str, object]) -> None:
        if len(source) > _MAX_TEMPLATE_CHARACTERS:
            raise UnsupportedModelError(
                f"{label} has {len(source):,} characters; up to {_MAX_TEMPLATE_CHARACTERS:,} are "
                "run. Choose another model, or replace the template."
            )
        self._label = label
        self._setup = {"template": source, "variables": dict(variables)}
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
            UnsupportedModelError: The template fails.
            EndlessTemplateError: It takes too much time or memory.
        """
        request = {
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "moment": moment.replace(tzinfo=None).isoformat(),
        }
        with self._lock:
            try:
                if self._running is None or not self._running.is_alive():
                    self._running = _Running()
                    weakref.finalize(self, self._running.end)
                    self._running.ask(self._setup)
                return self._running.ask(request)
            except _TemplateFailure as failure:
                raise UnsupportedModelError(self._sentence(failure)) from failure
            except _TemplateExcess as excess:
                self._end()
                raise EndlessTemplateError(self._sentence(excess)) from excess
            except BaseException:
                # an answer that nobody waited for must not be taken for the next one's
                self._end()
                raise

    def _sentence(self, failure: Exception) -> str:
        what = str(failure).rstrip(".")
        return f"{self._label} {what}. Choose another model, or replace the template."

    def _end(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None


class _TemplateFailure(Exception):
    """What a template does wrong, as the end of a sentence that names it."""


class _TemplateExcess(Exception):
    """What a template has too much of, as the end of a sentence that names it."""


class _Running:
    """A started worker."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(
            target=_read, args=(cast(TextIO, self._process.stdout), self._lines), daemon=True
        )
        reader.start()
        if self._next_line(_MAX_START_S) != "ready\n":
            self.end()
            raise _TemplateExcess("cannot be run: its process does not start")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, object]) -> str:
        line = json.dumps(request, ensure_ascii=False) + "\n"
        # a worker that hangs reads nothing: the writing must not wait for it
        threading.Thread(target=self._write, args=(line,), daemon=True).start()
        answer = self._next_line(_MAX_RENDER_S + len(line) / 1e6)
        if not answer.endswith("\n"):
            raise _TemplateExcess("needs too much memory, or ends its process")
        reply = json.loads(answer)
        if "excess" in reply:
            raise _TemplateExcess(reply["excess"])
        if "error" in reply:
            raise _TemplateFailure(reply["error"])
        return reply["text"]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    def _write(self, line: str) -> None:
        stream = cast(TextIO, self._process.stdin)
        with contextlib.suppress(OSError, ValueError):
            stream.write(line)
            stream.flush()

    def _next_line(self, limit_s: float) -> str:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            try:
                return self._lines.get(timeout=_LOOK_S)
            except queue.Empty:
                self._check_size()
        raise _TemplateExcess(f"does not end within {limit_s:.0f} seconds")

    def _check_size(self) -> None:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(self._process.pid).memory_info().rss > _MAX_BYTES:
                raise _TemplateExcess("needs too much memory")


def _read(stream: TextIO, lines: queue.Queue[str]) -> None:
    """Let a thread wait for lines, so that the waiting can have an end on every system."""
    with contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put("")
