"""Compiled programs as files, so that the next process need not compile them again.

Knows files, and the folder that the environment names. Must not know compilers, devices, the app.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

_LOG = logging.getLogger(__name__)

FOLDER_VARIABLE = "NEXUSQUANT_KERNEL_CACHE"
"""Names the folder; where it is not set, or empty, nothing is read or written."""

_MOST_FILES = 512
"""Of tens of kilobytes each: some 35 MB together."""

_NAME = "nexusquant-{}.cubin"
_DIGEST_BYTES = hashlib.sha256().digest_size


def kept(made_from: Sequence[str], make: Callable[[], bytes]) -> bytes:
    """A program from its file, or made now and kept for the next time.

    A file that is damaged or cannot be read is made anew; one that cannot be written is done
    without.

    Args:
        made_from: All that the program depends on.
        make: Makes it. What it raises is raised, and nothing is kept.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return make()
    key = hashlib.sha256(json.dumps(list(made_from)).encode()).hexdigest()
    path = Path(folder) / _NAME.format(key)
    program = _read(path)
    if program is None:
        program = make()
        try:
            _write(path, program)
            _remove_oldest(path.parent)
        except OSError as error:
            _LOG.debug("%s is not kept: %s", path, error)
    return program


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    program, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(program).digest() != digest:
        return None
    # what is used counts as new; others' files may be read only
    with contextlib.suppress(OSError):
        os.utime(path)
    return program


def _write(path: Path, program: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # another process may read or write this program now, so it gets its name when it is whole;
    # a part that stays behind because its process was ended is removed like an old program
    part = path.with_name(_NAME.format(uuid.uuid4().hex))
    try:
        part.write_bytes(program + hashlib.sha256(program).digest())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remove_oldest(folder: Path) -> None:
    files = folder.glob(_NAME.format("*"))
    by_age = sorted(files, key=lambda file: file.stat().st_mtime)
    for file in by_age[:-_MOST_FILES]:
        file.unlink(missing_ok=True)
