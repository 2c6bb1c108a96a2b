"""Which reader processes this process has started: a suite has other children, too."""

from __future__ import annotations

import contextlib

import psutil

from nexusquant.documents.worker import process


def reader_processes() -> list[psutil.Process]:
    """Those that run now; tests may have put a program of their own in place."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if str(process.MAIN) in child.cmdline():
                found.append(child)
    return found
