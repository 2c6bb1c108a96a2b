"""How loading the model goes, for the person who started the program in a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from nexusquant.engine import LoadProgress
from ui.following import Follower

TERMINAL_EVERY_S = 0.5
"""Seconds between two words to a terminal, whose line is written over."""

FILE_EVERY_S = 10.0
"""Seconds between two words to a file, which grows by a line each time."""


def tell_loading(
    loading: Follower, failure: Callable[[], str | None], output: TextIO | None = None
) -> threading.Thread:
    """Write what `loading` does until it has ended, on a thread of its own.

    Args:
        loading: The load.
        failure: Says why it failed, once it has ended; None if it did not.
        output: Where to; None: standard output.
    """
    told = threading.Thread(
        target=_tell, args=(loading, failure, output or sys.stdout), name="console", daemon=True
    )
    told.start()
    return told


def _tell(loading: Follower, failure: Callable[[], str | None], output: TextIO) -> None:
    is_terminal = output.isatty()
    every_s = TERMINAL_EVERY_S if is_terminal else FILE_EVERY_S
    before, length, last = "", 0, -every_s
    for now in loading.snapshots():
        progress = now.progress
        text = progress.text if isinstance(progress, LoadProgress) else ""
        # numbers change several times a second, what is being done does not
        is_news = text.partition(":")[0] != before.partition(":")[0]
        if not text or text == before or not (is_news or time.monotonic() - last >= every_s):
            continue
        length = _write(text, length, output, is_terminal=is_terminal)
        before, last = text, time.monotonic()
    _write(failure() or "The model is ready.", length, output, is_terminal=is_terminal)
    if is_terminal:
        output.write("\n")
        output.flush()


def _write(text: str, length: int, output: TextIO, *, is_terminal: bool) -> int:
    # blanks cover what is left of a longer line
    output.write(f"\r{text:<{length}}" if is_terminal else f"{text}\n")
    output.flush()
    return len(text)
