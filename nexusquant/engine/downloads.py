"""A model from the Hugging Face hub to a folder: with progress, resumed after a stop, verified.

Knows files, sizes and a connection that may break. Must not know what is in the files: whoever
asks for a model looks at its config before its weights are fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from nexusquant.engine.events import LoadProgress
from nexusquant.engine.hub import (
    TIMEOUT_S,
    DownloadError,
    NoConnectionError,
    RemoteFile,
    RemoteModel,
    connection_errors,
    explained,
    look_up,
)
from nexusquant.engine.publishing import acquire, lock_for, publish

KEPT_FREE_BYTES = 500_000_000
"""Room on the disk that a download leaves to others."""

_BLOCK = 2**20
_EVERY_S = 0.25
_SPEED_OVER_S = 10.0
_RETRIES, _RETRY_S = 5, 1.0
# too many requests, or a server that has trouble
_PASSING = (408, 429, 500, 502, 503, 504)


def fetched_dir(data_dir: Path, name: str) -> Path:
    """Name the folder of a model from the hub, which exists once it is whole."""
    # a name on the hub never contains two hyphens in a row
    return data_dir / "models" / "hub" / name.replace("/", "--")


def fetch_model(
    name: str,
    data_dir: Path,
    token: str | None = None,
    check: Callable[[Path], object] = lambda folder: None,
    *,
    is_damaged: bool = False,
) -> Generator[LoadProgress, None, Path]:
    """Fetch a model's config, tokenizer and safetensors weights.

    What was fetched before an error, a closed generator or a killed process is kept aside, and
    gone on with next time.

    Args:
        name: Hugging Face id.
        data_dir: Folder for the app's data.
        token: Says who asks; None: as the person is logged in on this computer, if at all.
        check: Called with a folder of config and tokenizer before any weights are fetched; what
            it raises ends the download.
        is_damaged: Files on this disk are not what was fetched; only whole ones are kept.

    Yields:
        What happens now; several times a second while downloading.

    Returns:
        The folder.

    Raises:
        DownloadError: No such model, no access, no connection, or no room on the disk.
    """
    target = fetched_dir(data_dir, name)
    yield LoadProgress(f"Looking up {name}", 0.0)
    remote = look_up(name, token)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_for(target)
        yield from acquire(lock, name)
        try:
            if is_damaged and target.is_dir():
                _throw_damaged_away(remote, target)
            if not target.is_dir():
                yield from _fetch(remote, target, token, check)
        finally:
            lock.release()
    except OSError as error:
        raise DownloadError(
            f"{name} could not be stored in {target.parent}: {error}. Check that there is room and "
            "that the folder can be written to, or choose another --data-dir."
        ) from error
    return target


def _fetch(
    remote: RemoteModel, target: Path, token: str | None, check: Callable[[Path], object]
) -> Iterator[LoadProgress]:
    work = _work_dir(remote, target)
    meter = _Meter(remote, sum(_held(work, file) for file in remote.files))
    _check_room(remote, work.parent, meter.total - meter.done)
    is_checked = False
    for file in remote.files:
        if file.name.endswith(".safetensors") and not is_checked:
            check(work)
            is_checked = True
        with explained(remote.id, token):
            yield from _fetch_file(remote, file, work, token, meter)
    publish(work, target)


def _work_dir(remote: RemoteModel, target: Path) -> Path:
    """The folder of this revision's files so far; those of another revision are of no use."""
    work = target.with_name(f".{target.name}.{remote.revision[:12]}.part")
    for other in target.parent.glob(f".{target.name}.*.part"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(exist_ok=True)
    return work


def _throw_damaged_away(remote: RemoteModel, target: Path) -> None:
    """Make a fetched model one whose download was stopped, with the files that are whole."""
    work = _work_dir(remote, target)
    for file in remote.files:
        path = target / file.name
        if path.is_file() and path.stat().st_size == file.num_bytes and _is_whole(file, path):
            path.replace(work / file.name)
    shutil.rmtree(target)


def _is_whole(file: RemoteFile, path: Path) -> bool:
    digest = _hasher(file)
    with path.open("rb") as content:
        while block := content.read(16 * _BLOCK):
            digest.update(block)
    return digest.hexdigest() == file.digest


def _hasher(file: RemoteFile) -> hashlib._Hash:
    if file.is_large:
        return hashlib.sha256()
    # what git hashes of a file
    return hashlib.sha1(f"blob {file.num_bytes}\0".encode(), usedforsecurity=False)


def _part(work: Path, file: RemoteFile) -> Path:
    return work / f"{file.name}.part"


def _held(work: Path, file: RemoteFile) -> int:
    for path in (work / file.name, _part(work, file)):
        if path.exists():
            return path.stat().st_size
    return 0


def _check_room(remote: RemoteModel, folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing + KEPT_FREE_BYTES > free:
        raise DownloadError(
            f"{remote.id} takes {missing / 1e9:.1f} GB more, and {folder} has {free / 1e9:.1f} GB "
            f"free, of which {KEPT_FREE_BYTES / 1e9:.1f} GB stay free. Make room, or choose "
            "another --data-dir."
        )


def _fetch_file(
    remote: RemoteModel, file: RemoteFile, work: Path, token: str | None, meter: _Meter
) -> Iterator[LoadProgress]:
    if (work / file.name).exists():
        return
    part, failures = _part(work, file), 0
    while _held(work, file) != file.num_bytes or not part.exists():
        before = _held(work, file)
        try:
            yield from _stream(remote.address(file), part, token, meter, file.num_bytes)
            continue
        except connection_errors() as error:
            problem: Exception = error
        except HfHubHTTPError as error:
            if error.response.status_code not in _PASSING:
                raise
            problem = error
        failures = 1 if _held(work, file) > before else failures + 1
        if failures > _RETRIES:
            raise NoConnectionError(
                f"The connection broke while {remote.id} was fetched ({type(problem).__name__}). "
                "Load it again: what has come so far is kept."
            ) from problem
        yield meter.progress("The connection broke; trying again. ")
        time.sleep(_RETRY_S)
    yield from _verify(remote, file, part)
    # a stop is noticed between two words: before the last file makes the model whole
    yield meter.progress()
    part.replace(work / file.name)


def _stream(
    address: str, part: Path, token: str | None, meter: _Meter, num_bytes: int
) -> Iterator[LoadProgress]:
    """Add to `part` what is missing of a file."""
    held = part.stat().st_size if part.exists() else 0
    if held > num_bytes:
        part.unlink()
        meter.add(-held)
        held = 0
    # compressed on the way, a file could not be gone on with
    headers = build_hf_headers(token=token) | {"Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    request = get_session().stream("GET", address, headers=headers, timeout=TIMEOUT_S)
    with request as response, part.open("ab") as output:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        if held and response.status_code != 206:
            # a server that cannot begin in the middle sends everything
            output.truncate(0)
            meter.add(-held)
        for block in response.iter_bytes(_BLOCK):
            output.write(block)
            meter.add(len(block))
            if meter.is_due():
                yield meter.progress()
    if part.stat().st_size < num_bytes:
        raise ConnectionError("the file ended early")


def _verify(remote: RemoteModel, file: RemoteFile, part: Path) -> Iterator[LoadProgress]:
    """Compare a file with what the hub says of it; a wrong one is thrown away."""
    digest, done = _hasher(file), 0
    with part.open("rb") as content:
        while block := content.read(16 * _BLOCK):
            digest.update(block)
            done += len(block)
            if file.num_bytes > 64 * _BLOCK:
                yield LoadProgress(f"Checking {file.name}", done / file.num_bytes)
    if digest.hexdigest() != file.digest:
        part.unlink()
        raise DownloadError(
            f"{file.name} of {remote.id} arrived damaged and was thrown away. Load it again."
        )


class _Meter:
    """How much has come, how fast, and how long it will take."""

    def __init__(self, remote: RemoteModel, done: int) -> None:
        self.done, self.total = done, sum(file.num_bytes for file in remote.files)
        self._name = remote.id.rpartition("/")[2]
        self._told = 0.0
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), done)])

    def add(self, num_bytes: int) -> None:
        """So many bytes came; negative: they were thrown away."""
        self.done += num_bytes

    def is_due(self) -> bool:
        """Whether it is time to say something."""
        return time.monotonic() - self._told >= _EVERY_S

    def progress(self, before: str = "") -> LoadProgress:
        """Size, speed over the last seconds, and time left; `before` is said first."""
        now = self._told = time.monotonic()
        self._recent.append((now, self.done))
        while now - self._recent[0][0] > _SPEED_OVER_S and len(self._recent) > 2:
            self._recent.popleft()
        then, had = self._recent[0]
        speed = max(self.done - had, 0) / max(now - then, 1e-3)
        size = f"{self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB"
        text = f"{before}Downloading {self._name}: {size}, {speed / 1e6:.1f} MB/s"
        if speed > 0:
            text += f", {_duration((self.total - self.done) / speed)} left"
        return LoadProgress(text, min(self.done / max(self.total, 1), 1.0))


def _duration(left_s: float) -> str:
    minutes = round(left_s / 60)
    if left_s < 90:
        return f"{max(round(left_s), 1)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
