"""A folder that is built aside, by one process at a time, and is there only when it is whole."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nexusquant.engine.events import LoadProgress

_POLL_S = 0.25


def lock_for(target: Path) -> FileLock:
    """The lock of whoever builds the folder `target`."""
    return FileLock(target.with_name(f".{target.name}.lock"), thread_local=False)


def acquire(lock: FileLock, what: str) -> Iterator[LoadProgress]:
    """Wait until nobody else builds.

    Args:
        lock: Of the folder.
        what: The model, as a person would call it.

    Yields:
        Several times a second while another process builds.
    """
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            yield LoadProgress(f"Waiting: another Nexusquant is fetching {what}.", 0.0)
            time.sleep(_POLL_S)


def publish(build: Path, target: Path) -> None:
    """Put `build` where `target` is or will be; what it holds is on the disk before that."""
    for path in build.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    os.replace(build, target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
