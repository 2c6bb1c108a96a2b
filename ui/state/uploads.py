"""Files that people put here: found by an id of their owner's, limited for each, removed in time.

Knows a folder on the disk. Must not know requests, widgets or what is in a file. A path that comes
from a browser never gets here: ids are the only names, and the paths are made here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_FILE_BYTES = 200_000_000
MAX_USER_BYTES = 1_000_000_000
MAX_USER_FILES = 20
MAX_AT_ONCE = 3
"""Files of one user that may be on their way at the same time."""

MAX_AGE_S = 86_400.0
MIN_FREE_BYTES = 200_000_000
"""Room that is left on the disk for everything else."""

MAX_NAME_LENGTH = 120


class UploadError(Exception):
    """A file that is not taken, or not there; the message says why."""


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded whole.

    Args:
        id: Unguessable; all that a browser knows of it.
        owner: Who put it here.
        name: As it was called there, without folders.
        path: Where it lies.
        num_bytes: Its size.
        uploaded_at: Monotonic time.
    """

    id: str
    owner: str
    name: str
    path: Path
    num_bytes: int
    uploaded_at: float


class Uploads:
    """All uploads of this server.

    Args:
        folder: Where they lie; what earlier runs left there is removed after a day.
        max_file_bytes: Most of one file.
        max_user_bytes: Most of one user's files together.
        max_user_files: Most files of one user.
        free_bytes: Tells how much room the disk of a folder has.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        max_user_bytes: int = MAX_USER_BYTES,
        max_user_files: int = MAX_USER_FILES,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self.max_file_bytes = max_file_bytes
        self._max_user_bytes, self._max_user_files = max_user_bytes, max_user_files
        self._free_bytes = free_bytes
        self._by_id: dict[str, Upload] = {}
        self._arriving: dict[str, int] = {}
        self._lock = threading.RLock()
        _remove_leftovers(folder)
        # another program on the same data folder has its own
        self._folder = Path(tempfile.mkdtemp(prefix="run-", dir=folder))

    def begin(self, owner: str, name: str) -> ArrivingUpload:
        """Make a place for a file that is on its way.

        Raises:
            UploadError: Too many are on their way, or the disk is full.
        """
        with self._lock:
            if self._arriving.get(owner, 0) >= MAX_AT_ONCE:
                raise UploadError("Your other files are still on their way. Wait for them.")
            self._arriving[owner] = self._arriving.get(owner, 0) + 1
        try:
            self._remove_old()
            return ArrivingUpload(self, owner, plain_name(name), self._new_path(name))
        except OSError as error:
            self._end_arriving(owner)
            raise _disk_error(error) from error
        except BaseException:
            self._end_arriving(owner)
            raise

    def find(self, upload_id: object, owner: str) -> Upload:
        """The file behind an id.

        Raises:
            UploadError: This user has no such file, or it is no regular file any more.
        """
        with self._lock:
            found = self._by_id.get(upload_id) if isinstance(upload_id, str) else None
        if found is None or found.owner != owner:
            raise UploadError("This file was not uploaded here, or is gone. Upload it again.")
        try:
            status = os.lstat(found.path)
        except OSError as error:
            raise UploadError("This file is gone. Upload it again.") from error
        if not stat.S_ISREG(status.st_mode) or status.st_size > self.max_file_bytes:
            raise UploadError("This is no file that can be opened.")
        return found

    def close(self) -> None:
        """Remove all files."""
        with self._lock:
            self._by_id.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self, arrived: ArrivingUpload) -> Upload:
        """Take a file that has arrived; this user's oldest ones go if there are too many."""
        upload = Upload(
            id=f"u_{secrets.token_urlsafe(16)}",
            owner=arrived.owner,
            name=arrived.name,
            path=arrived.path,
            num_bytes=arrived.num_bytes,
            uploaded_at=time.monotonic(),
        )
        with self._lock:
            own = [u for u in self._by_id.values() if u.owner == arrived.owner]
            num_bytes = sum(u.num_bytes for u in own) + upload.num_bytes
            while own and (len(own) >= self._max_user_files or num_bytes > self._max_user_bytes):
                oldest = own.pop(0)
                num_bytes -= oldest.num_bytes
                self._remove(oldest)
            self._by_id[upload.id] = upload
        self._end_arriving(arrived.owner)
        return upload

    def give_up(self, arriving: ArrivingUpload) -> None:
        """Remove what has arrived of a file."""
        shutil.rmtree(arriving.path.parent, ignore_errors=True)
        self._end_arriving(arriving.owner)

    def check_room(self) -> None:
        """Make sure that the disk has room.

        Raises:
            UploadError: It has not.
        """
        if self._free_bytes(self._folder) < MIN_FREE_BYTES:
            raise UploadError(
                "The disk of this computer is full, so the file was not taken. "
                "Make room there, then try again."
            )

    def _new_path(self, name: str) -> Path:
        # somebody may have tidied up
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.check_room()
        # the suffix tells readers what a file is; nothing else of its name reaches the disk
        suffix = Path(plain_name(name)).suffix.lower()
        is_plain = suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) < 12
        place = self._folder / secrets.token_hex(12)
        place.mkdir(mode=0o700, parents=True)
        return place / f"file{suffix if is_plain else ''}"

    def _remove_old(self) -> None:
        with self._lock:
            limit = time.monotonic() - MAX_AGE_S
            for upload in [u for u in self._by_id.values() if u.uploaded_at < limit]:
                self._remove(upload)

    def _remove(self, upload: Upload) -> None:
        self._by_id.pop(upload.id, None)
        shutil.rmtree(upload.path.parent, ignore_errors=True)

    def _end_arriving(self, owner: str) -> None:
        with self._lock:
            self._arriving[owner] = self._arriving.get(owner, 1) - 1
            if not self._arriving[owner]:
                del self._arriving[owner]


class ArrivingUpload:
    """A file that is on its way; use it in a `with`, which removes it unless it is finished.

    Args:
        uploads: Where it goes.
        owner: Who sends it.
        name: What it is called.
        path: Where it is written.
    """

    def __init__(self, uploads: Uploads, owner: str, name: str, path: Path) -> None:
        self._uploads = uploads
        self.owner, self.name, self.path = owner, name, path
        self.num_bytes = 0
        self._file: BinaryIO | None = path.open("xb")
        self._upload: Upload | None = None

    def __enter__(self) -> ArrivingUpload:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what has arrived, unless all of it has."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._upload is None:
            self._uploads.give_up(self)

    def write(self, data: bytes) -> None:
        """Add to it.

        Raises:
            UploadError: It is too large, or the disk is full.
        """
        self.num_bytes += len(data)
        if self.num_bytes > self._uploads.max_file_bytes:
            raise UploadError(
                f"A file may have {self._uploads.max_file_bytes // 10**6} MB at most. "
                "Split it and open the part you need."
            )
        try:
            if self.num_bytes % (1 << 24) < len(data):
                self._uploads.check_room()
            self._open_file().write(data)
        except OSError as error:
            raise _disk_error(error) from error

    def finish(self) -> Upload:
        """All of it is there.

        Raises:
            UploadError: The disk is full.
        """
        try:
            self._open_file().close()
        except OSError as error:
            raise _disk_error(error) from error
        self._file = None
        self._upload = self._uploads.finish(self)
        return self._upload

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise ValueError("This upload has ended.")
        return self._file


def _remove_leftovers(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime < MAX_AGE_S:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def plain_name(name: str) -> str:
    """What a file is called on the page: no folders, nothing that cannot be seen, not too long."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    visible = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    stem, dot, suffix = visible.rpartition(".")
    if dot and len(visible) > MAX_NAME_LENGTH:
        return stem[: MAX_NAME_LENGTH - len(suffix[:10]) - 1] + dot + suffix[:10]
    return visible[:MAX_NAME_LENGTH] or "file"


def _disk_error(error: OSError) -> UploadError:
    why = error.strerror or "unknown reason"
    return UploadError(
        f"The file could not be written to the disk of this computer ({why}), so nothing of it "
        "was kept. Make room there, then try again."
    )
