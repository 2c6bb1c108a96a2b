"""The small files of a model's folder: opened only if they lie in it, and never whole if huge.

Knows paths and JSON. Must not know what stands in the files, or transformers.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from nexusquant.errors import UnsupportedModelError

_LFS = b"version https://git-lfs"
_LFS_BYTES = 1024


def size_in_folder(path: Path) -> int:
    """Bytes of a file that lies in its model's folder.

    A link is followed only within the folder, or to where the hub's own cache keeps the files of
    its snapshots.

    Args:
        path: Of the file.

    Raises:
        FileNotFoundError: There is none.
        UnsupportedModelError: It is no regular file, leads out of the folder, or may not be read.
    """
    try:
        real = path.resolve(strict=True)
        found = real.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise UnsupportedModelError(
                f"{_shown(path)} is a link to a file that is not there. Copy the file itself."
            ) from None
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{_shown(path)} cannot be opened ({_reason(error)}). Copy the model anew, or choose "
            "another folder."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise UnsupportedModelError(f"{_shown(path)} is no regular file, and was not opened.")
    if not any(real.is_relative_to(home) for home in _homes(path.parent)):
        raise UnsupportedModelError(
            f"{_shown(path)} is a link to a file outside the model's folder, and was not opened. "
            "Copy the file into the folder."
        )
    if not os.access(real, os.R_OK):
        raise UnsupportedModelError(
            f"{_shown(path)} may not be read by this account. Change its permissions."
        )
    return found.st_size


def exists(path: Path) -> bool:
    """Tell whether there is something of that name, even if it cannot be opened."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def read_object(path: Path, max_bytes: int) -> dict[str, object]:
    """Read a JSON file that holds an object.

    Args:
        path: Of the file.
        max_bytes: A larger file is refused before it is read.

    Raises:
        FileNotFoundError: There is none.
        UnsupportedModelError: It is too large, a pointer of git LFS, or holds something else.
    """
    num_bytes = size_in_folder(path)
    if num_bytes > max_bytes:
        raise UnsupportedModelError(
            f"{_shown(path)} has {num_bytes:,} bytes, and such a file never needs more than "
            f"{max_bytes:,}: it is not what its name says. Fetch the model again."
        )
    try:
        content = path.read_bytes()
        refuse_pointer(path, content)
        found = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise UnsupportedModelError(f"{_shown(path)} cannot be read ({_reason(error)}).") from error
    except RecursionError as error:
        raise UnsupportedModelError(
            f"{_shown(path)} is nested so deeply that it cannot be read. Fetch the model again."
        ) from error
    except ValueError as error:
        raise UnsupportedModelError(
            f"{_shown(path)} is damaged: it is no JSON text ({_reason(error)}). Fetch the model "
            "again."
        ) from error
    if not isinstance(found, dict):
        raise UnsupportedModelError(
            f"{_shown(path)} holds a {_json_kind(found)} where an object with named entries must "
            "stand. Fetch the model again."
        )
    return found


def refuse_pointer(path: Path, begins: bytes) -> None:
    """Refuse what git leaves in place of a large file.

    Args:
        path: Of the file.
        begins: Its first bytes, or all of them.

    Raises:
        UnsupportedModelError: It is a pointer.
    """
    if not begins.startswith(_LFS):
        return
    pointer = begins[:_LFS_BYTES].decode("utf-8", "replace")
    sizes = [line[5:].strip() for line in pointer.splitlines() if line.startswith("size ")]
    expected = f" of {int(sizes[0]):,} bytes" if sizes and sizes[0].isdecimal() else ""
    raise UnsupportedModelError(
        f"{_shown(path)} is a pointer of git LFS ({path.stat().st_size:,} bytes) in place of the "
        f"file{expected}. Run 'git lfs pull' in the folder, or give the model's Hugging Face id."
    )


def _homes(folder: Path) -> list[Path]:
    """The folder, and where the hub's cache keeps what the links of a snapshot lead to."""
    homes = [folder.resolve()]
    for place in (folder.absolute(), homes[0]):
        if place.parent.name == "snapshots":
            homes.append(place.parent.parent.resolve() / "blobs")
    return homes


def _shown(path: Path) -> str:
    return printable(path.name)


def printable(text: str, most: int = 120) -> str:
    """Give a text from a file as it may stand in a sentence: one short line, no half characters.

    Args:
        text: Anything.
        most: Characters that are kept.
    """
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text[: most + 1])
    return clean if len(clean) <= most else f"{clean[:most]}..."


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def _json_kind(found: object) -> str:
    kinds = {list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return kinds.get(type(found), "null")
