"""The reader process: one line of JSON in, one line of JSON out per page.

Started by its path. Knows how to end with its parent and to stay small, and lends itself the
package without running `nexusquant/__init__`, so that it starts at once. Must not know torch, the
engine, or any format: the module that reads is named by the order.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import types
from pathlib import Path
from typing import IO, Any

_PACKAGE = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    """Read the order, let the named module read the file, and write what it yields."""
    output = _take_output()
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _limit_memory(order["memory_bytes"])
    _lend_package()
    try:
        _read(order, output)
    except MemoryError:
        _send(output, {"ended": "memory"})
    # at once: there is nothing to keep, and taking PDFium down can crash or take long
    os._exit(0)


def _read(order: dict[str, Any], output: IO[bytes]) -> None:
    errors = importlib.import_module("nexusquant.errors")
    document = importlib.import_module("nexusquant.documents.document")
    reader = importlib.import_module(order["reader"])
    try:
        for message in reader.read(order["request"]):
            _send(output, message)
    except errors.DocumentError as error:
        is_locked = isinstance(error, document.PasswordError)
        _send(output, {"refused": str(error), "is_locked": is_locked})
    else:
        _send(output, {"is_done": True})


def _send(output: IO[bytes], message: dict[str, Any]) -> None:
    output.write(json.dumps(message).encode() + b"\n")
    output.flush()


def _take_output() -> IO[bytes]:
    """Keep the pipe for messages alone: what libraries print must not get between them."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


def _end_with_parent() -> None:
    """Wait until the parent closes the pipe, as the system does for one that was killed."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _limit_memory(num_bytes: int) -> None:
    try:
        import resource
    except ImportError:
        # Windows has no such limit; the parent watches
        return
    # a crash must not leave the memory on the disk
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    except (ValueError, OSError):
        # macOS may refuse it; the parent watches
        return


def _lend_package() -> None:
    """Make the modules of the package importable without what its `__init__` files import."""
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        del sys.path[0]
    for name, folder in (
        ("nexusquant", _PACKAGE),
        ("nexusquant.documents", _PACKAGE / "documents"),
    ):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


if __name__ == "__main__":
    main()
