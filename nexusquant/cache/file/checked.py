"""Tensors and what is no tensor in one file, each with a checksum; read, never mapped.

Knows safetensors' layout and bytes. Must not know what the tensors mean.

A file is one of safetensors. Its metadata hold a JSON text behind the text's SHA-256, and the text
lists that of every tensor, which is taken over name, type and shape as well: no single bit can
change what is read. Taking it costs about as much time as reading a file that is in memory already.

Files are read here and not by `safe_open`, which maps them: whoever writes to a mapped file changes
tensors that were checked, and whoever shortens it ends the process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

MAX_HEADER_BYTES = 64_000_000
_DIGESTS, _DIGEST_LENGTH = "sha256_of_tensors", 64
_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class FileDamageError(ValueError):
    """A file is not what was written, or never was of this kind."""


@dataclass(frozen=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    num_bytes: int


class CheckedFile:
    """A file that is open.

    Args:
        file: Where to read.
        header: What is no tensor.
        entries: Where each tensor lies.
        digests: Checksum of each tensor.
    """

    def __init__(
        self,
        file: BinaryIO,
        header: dict[str, Any],
        entries: Mapping[str, _Entry],
        digests: Mapping[str, str],
    ) -> None:
        self.header = header
        self._file, self._entries, self._digests = file, entries, digests

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return tuple(self._entries)

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor into memory of its own.

        Raises:
            FileDamageError: It is not there, or not what was written.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise FileDamageError(f"it has no {name}")
        data = torch.empty(entry.num_bytes, dtype=torch.uint8)
        self._file.seek(entry.start)
        view = memoryview(data.numpy())
        if self._file.readinto(view) != entry.num_bytes:
            raise FileDamageError(f"it ends within {name}")
        if _digest(name, entry.dtype, entry.shape, view) != self._digests[name]:
            raise FileDamageError(f"{name} is not what was written")
        return data.view(entry.dtype).reshape(entry.shape)


def write_checked(
    path: Path, kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Replaced if it is there.
        kind: What kind of file it is; it is opened by the same word.
        tensors: By name.
        header: Values of JSON. Its `format_version` is looked at before anything else.

    Raises:
        OSError: It cannot be written; the message names `path`.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Name a file, in it for instance.")
    # the bytes are needed twice, and those of a GPU are fetched once
    here = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    digests = {
        name: _digest(name, tensor.dtype, tuple(tensor.shape), _bytes_of(tensor))
        for name, tensor in here.items()
    }
    text = json.dumps({**header, _DIGESTS: digests})
    metadata = {kind: hashlib.sha256(text.encode()).hexdigest() + text}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        save_file(here, str(partial), metadata=metadata)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (SafetensorError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{path} cannot be written: {why}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def open_checked(path: Path, kind: str, version: int) -> Iterator[CheckedFile]:
    """Open a file of `write_checked`; its list of tensors is checked, and each as it is read.

    Args:
        path: Which.
        kind: As it was written with.
        version: The `format_version` that its header must have.

    Raises:
        FileDamageError: It is no such file, of another version, or not what was written.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileDamageError("it is no file")
        described, data_start = _description(file, status.st_size)
        header, digests = _header(described.pop("__metadata__", None), kind, version)
        entries = _entries(described, data_start, status.st_size)
        if entries.keys() != digests.keys():
            raise FileDamageError("its list of tensors is not what was written")
        yield CheckedFile(file, header, entries, digests)


def _description(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """What safetensors says of the tensors, and where their bytes begin."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise FileDamageError("it is no safetensors file, or it is cut off")
    described = _json(file.read(length))
    if not isinstance(described, dict):
        raise FileDamageError("it is no safetensors file")
    return described, 8 + length


def _header(metadata: object, kind: str, version: int) -> tuple[dict[str, Any], dict[str, str]]:
    said = metadata.get(kind) if isinstance(metadata, dict) else None
    if not isinstance(said, str):
        raise FileDamageError("it is a file of another kind")
    # older versions had the text alone
    start = 0 if said.startswith("{") else _DIGEST_LENGTH
    digest, text = said[:start], said[start:]
    header = _json(text)
    if not isinstance(header, dict):
        raise FileDamageError("it is a file of another kind")
    if header.get("format_version") != version:
        raise FileDamageError(
            f"it has format version {header.get('format_version')}, this program reads version "
            f"{version}"
        )
    digests = header.pop(_DIGESTS, None)
    is_right = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() == digest
    if not is_right or not isinstance(digests, dict):
        raise FileDamageError("its header is not what was written")
    return header, digests


def _entries(described: Mapping[str, Any], data_start: int, size: int) -> dict[str, _Entry]:
    entries = {name: _entry(value, data_start) for name, value in described.items()}
    end = data_start
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.num_bytes)):
        if entry.start != end:
            raise FileDamageError("its tensors overlap, or leave a gap")
        end += entry.num_bytes
    if end != size:
        raise FileDamageError("it is cut off, or something follows its tensors")
    return entries


def _entry(value: object, data_start: int) -> _Entry:
    if not isinstance(value, dict):
        raise FileDamageError("a tensor has no description")
    shape, offsets = value.get("shape"), value.get("data_offsets")
    dtype = _TYPES.get(value["dtype"]) if isinstance(value.get("dtype"), str) else None
    if dtype is None or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise FileDamageError("a tensor's description makes no sense")
    num_bytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != num_bytes:
        raise FileDamageError("a tensor has not the size of its shape")
    return _Entry(dtype, tuple(shape), data_start + offsets[0], num_bytes)


def _are_counts(listed: object) -> bool:
    return isinstance(listed, list) and all(type(n) is int and 0 <= n < 2**48 for n in listed)


def _json(text: bytes | str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileDamageError("its header is no JSON") from error


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _digest(name: str, dtype: torch.dtype, shape: tuple[int, ...], data: memoryview) -> str:
    digest = hashlib.sha256(f"{name}\n{dtype}\n{shape}\n".encode("utf-8", "surrogatepass"))
    digest.update(data)
    return digest.hexdigest()
