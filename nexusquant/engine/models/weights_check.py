"""Weights of a model's folder: which files they are in, and whether those are whole.

Knows the index and the header of safetensors. Must not know models, torch or transformers. Reads
headers alone: what follows them is numbers, and any are legal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nexusquant.engine.models.small_files import (
    exists,
    printable,
    read_object,
    refuse_pointer,
    size_in_folder,
)
from nexusquant.errors import UnsupportedModelError

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_INDEX_BYTES = _MOST_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
_ADVICE = "Fetch it again, or give the model's Hugging Face id."


@dataclass(frozen=True)
class WeightFiles:
    """The files of a model's weights, each of them whole.

    Args:
        names: Without folders.
        num_values: Numbers in all their tensors.
    """

    names: tuple[str, ...]
    num_values: int


def check_weights(folder: Path) -> WeightFiles:
    """Find the weights that transformers would open, and see whether they are whole.

    Args:
        folder: Of the model.

    Raises:
        UnsupportedModelError: Something is missing or damaged; the file is named, with the bytes
            that are there and those that should be.
    """
    if exists(folder / _WHOLE):
        shards: Mapping[str, set[str]] = {_WHOLE: set()}
    elif exists(folder / _INDEX):
        index = read_object(folder / _INDEX, _MOST_INDEX_BYTES)
        shards = _shards(index)
        _check_metadata(index)
    else:
        raise UnsupportedModelError(_no_weights(folder))
    num_values = 0
    for name, tensors in shards.items():
        header = _header(folder / name)
        missing = sorted(tensors - header.keys())
        if missing:
            raise UnsupportedModelError(
                f"{name} does not hold {printable(missing[0])}, which {_INDEX} looks for in it. "
                f"{_ADVICE}"
            )
        num_values += sum(header.values())
    return WeightFiles(tuple(shards), num_values)


def damage_of(folder: Path) -> str | None:
    """Tell in half a sentence what is wrong with a folder's weights; None: nothing.

    Args:
        folder: Of the model.
    """
    try:
        check_weights(folder)
    except UnsupportedModelError as error:
        return str(error).split(". ", maxsplit=1)[0].rstrip(".")
    return None


def shard_names(folder: Path) -> tuple[str, ...]:
    """Name the files that the index of a folder says its weights are in.

    Args:
        folder: Of the model.

    Raises:
        FileNotFoundError: It has no index.
        UnsupportedModelError: The index is damaged or names files outside the folder.
    """
    return tuple(_shards(read_object(folder / _INDEX, _MOST_INDEX_BYTES)))


def _no_weights(folder: Path) -> str:
    names = [path.name for path in folder.iterdir()]
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in names):
        what = "holds weights as pickles only, which can run code and are never opened"
    elif any(name.endswith(".gguf") for name in names):
        what = "holds its weights as GGUF, which is another format"
    else:
        what = "holds no weights (model.safetensors)"
    return (
        f"{folder} {what}. Give a Hugging Face id or a local folder with safetensors weights and a "
        "tokenizer."
    )


def _shards(index: Mapping[str, object]) -> dict[str, set[str]]:
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UnsupportedModelError(
            f"{_INDEX} is damaged: its weight_map names no tensors. {_ADVICE}"
        )
    shards: dict[str, set[str]] = {}
    for tensor, name in names.items():
        if not _is_shard_name(name):
            raise UnsupportedModelError(
                f"{_INDEX} looks for {printable(tensor)} in {printable(repr(name), 80)}, which is "
                f"no safetensors file of this folder, and was not opened. {_ADVICE}"
            )
        shards.setdefault(name, set()).add(tensor)
    return dict(sorted(shards.items()))


def _check_metadata(index: Mapping[str, object]) -> None:
    # of no use here, and transformers opens no index without it
    if not isinstance(index.get("metadata"), dict):
        raise UnsupportedModelError(
            f"{_INDEX} is damaged: its entry metadata is missing or no object. {_ADVICE}"
        )


def _is_shard_name(name: object) -> bool:
    # it can only mean a file beside the index
    return (
        isinstance(name, str)
        and name.isprintable()
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and not set(name) & set("/\\:")
    )


def _header(path: Path) -> dict[str, int]:
    """Numbers in each tensor of a file that is whole."""
    try:
        num_bytes = size_in_folder(path)
        with path.open("rb") as file:
            begins = file.read(1024)
            text = b""
            length = int.from_bytes(begins[:_LENGTH_BYTES], "little")
            _check_length(path, begins, length, num_bytes)
            file.seek(_LENGTH_BYTES)
            text = file.read(length)
    except FileNotFoundError:
        raise UnsupportedModelError(
            f"{path.name} is missing; a part of the weights is in it. {_ADVICE}"
        ) from None
    except OSError as error:
        raise UnsupportedModelError(
            f"{path.name} cannot be read ({error.strerror or type(error).__name__})."
        ) from error
    tensors = _tensors(path, text)
    _check_places(path, tensors, num_bytes - _LENGTH_BYTES - length)
    return {name: tensor.num_values for name, tensor in tensors.items()}


def _check_length(path: Path, begins: bytes, length: int, num_bytes: int) -> None:
    if num_bytes == 0:
        raise UnsupportedModelError(f"{path.name} is empty (0 bytes). {_ADVICE}")
    refuse_pointer(path, begins)
    # a header is written in one go, so one that goes on beyond the file was cut off
    is_header = length <= _MOST_HEADER_BYTES and begins[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"
    if not is_header:
        raise UnsupportedModelError(
            f"{path.name} is no safetensors file{_seems(begins)} (it has {num_bytes:,} bytes), and "
            f"was not opened. {_ADVICE}"
        )
    if _LENGTH_BYTES + length > num_bytes:
        raise UnsupportedModelError(
            f"{path.name} is incomplete: {num_bytes:,} bytes are there, and its header alone has "
            f"{_LENGTH_BYTES + length:,}. {_ADVICE}"
        )


def _seems(begins: bytes) -> str:
    if begins.startswith((b"\x80", b"PK")):
        return " but a pickle, which can run code"
    if begins.startswith(b"GGUF"):
        return " but a GGUF file"
    if begins.lstrip().lower().startswith((b"<!doc", b"<html")):
        return " but a web page"
    return ""


@dataclass(frozen=True)
class _Tensor:
    begin: int
    end: int
    num_values: int


def _tensors(path: Path, text: bytes) -> dict[str, _Tensor]:
    try:
        header = json.loads(text.decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError("it is no object")
        header.pop("__metadata__", None)
        return {name: _tensor(name, entry) for name, entry in header.items()}
    except RecursionError as error:
        raise UnsupportedModelError(f"The header of {path.name} is too deep. {_ADVICE}") from error
    except (ValueError, TypeError, KeyError) as error:
        reason = printable(str(error).strip() or type(error).__name__)
        raise UnsupportedModelError(
            f"The header of {path.name} is damaged ({reason}). {_ADVICE}"
        ) from error


def _tensor(name: str, entry: Mapping[str, object]) -> _Tensor:
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    sizes = [*shape, begin, end]
    if any(not isinstance(n, int) or isinstance(n, bool) or not 0 <= n < 2**63 for n in sizes):
        raise ValueError(f"{name} has no sizes")
    if dtype not in _BITS:
        raise ValueError(f"{name} holds {dtype}, which is no type of numbers")
    num_values = math.prod(shape)
    if num_values * _BITS[dtype] != (end - begin) * 8:
        raise ValueError(f"{name} holds {num_values:,} x {dtype} in {end - begin:,} bytes")
    return _Tensor(begin, end, num_values)


def _check_places(path: Path, tensors: Mapping[str, _Tensor], num_there: int) -> None:
    expected = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != expected:
            raise UnsupportedModelError(
                f"The header of {path.name} is damaged: {printable(name)} begins at byte "
                f"{tensor.begin:,} where {expected:,} is next. {_ADVICE}"
            )
        expected = tensor.end
    before = path.stat().st_size - num_there
    if num_there < expected:
        raise UnsupportedModelError(
            f"{path.name} is incomplete: {before + num_there:,} of {before + expected:,} bytes are "
            f"there. {_ADVICE}"
        )
    if num_there > expected:
        raise UnsupportedModelError(
            f"{path.name} is damaged: it has {before + num_there:,} bytes, and its header says "
            f"{before + expected:,}. {_ADVICE}"
        )
