"""Ways to damage a file of tensors, with checksums that are wrong, and right as an attacker's are.

Knows bytes, tensors and values of JSON. Must not know what they mean.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from nexusquant.cache.file.checked import write_checked

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 255, 2**31, 2**63, 10**400, 0.5, -0.0, 1e300, "", "x", "2", [], {},
    [0], [-1], [10**13], [None], ["x"], {"a": 1}, [[]], "\ud83d", "\x00", float("nan"),
    float("inf"),
)  # fmt: skip


def damage_bytes(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Damage that no checksum knows of: flips, cuts, moves, noise, repeats."""
    data, start = bytearray(content), rng.randrange(len(content))
    length = rng.choice([1, 1, 2, 8, 64, 1000])
    kind = rng.choice(["flip", "flip", "flip", "cut", "noise", "zero", "move", "add", "header"])
    if kind == "flip":
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    elif kind == "cut":
        data = data[:start]
    elif kind == "noise":
        data[start : start + length] = rng.randbytes(length)
    elif kind == "zero":
        data[start : start + length] = bytes(length)
    elif kind == "move":
        part = data[start : start + length]
        place = rng.randrange(len(data))
        data[place:place] = part
    elif kind == "add":
        data += rng.randbytes(length)
    else:
        data[:8] = rng.choice([0, 1, 2**63, len(data), 10**9, 2]).to_bytes(8, "little")
    return f"{kind} at {start}, {length}", bytes(data)


def lie(rng: random.Random, path: Path, kind: str) -> str:
    """Change what a file says, and write it with right checksums; returns what was done."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()[kind][64:])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    del header["sha256_of_tensors"]
    done = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        change = rng.choice([_lie_in_header, _lie_in_header, _lie_in_tensors])
        done.append(change(rng, header, tensors))
    write_checked(path, kind, tensors, header)
    return "; ".join(done)


def _lie_in_header(rng: random.Random, header: dict, _tensors: dict) -> str:
    holders: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            holders.append((value, key))
            if isinstance(value[key], (dict, list)):
                collect(value[key])

    collect(header)
    holder, key = rng.choice(holders)
    before = holder[key]
    if rng.random() < 0.2 and key != "format_version":
        del holder[key]
        return f"without {key}"
    near = [before + 1, before - 1, before * 2, -before] if type(before) in (int, float) else []
    holder[key] = copy.deepcopy(rng.choice([*ODD, *near]))
    return f"{key} is {holder[key]!r}, was {before!r}"[:200]


def _lie_in_tensors(rng: random.Random, _header: dict, tensors: dict) -> str:
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "nan": lambda: torch.full_like(tensor.float(), torch.nan).to(tensor.dtype),
        "huge": lambda: (
            torch.full_like(tensor.float(), torch.inf).to(tensor.dtype)
            if tensor.is_floating_point()
            else torch.full_like(tensor, torch.iinfo(tensor.dtype).max)
        ),
        "low": lambda: torch.zeros_like(tensor) - 1 if tensor.dtype != torch.bool else ~tensor,
        "zeros": lambda: torch.zeros_like(tensor),
        "double": lambda: tensor.double(),
        "bytes": lambda: tensor.to(torch.uint8),
        "ints": lambda: tensor.long(),
        "flat": lambda: tensor.flatten(),
        "scalar": lambda: torch.tensor(1, dtype=tensor.dtype),
        "empty": lambda: tensor[:0],
        "shorter": lambda: tensor[..., :-1] if tensor.dim() else tensor,
        "longer": lambda: torch.cat([tensor, tensor]) if tensor.dim() else tensor,
        "more dimensions": lambda: tensor.unsqueeze(0),
        "turned": lambda: tensor.flip(0) if tensor.dim() else tensor,
        "another's": lambda: tensors[rng.choice(sorted(tensors))],
    }
    way = rng.choice(sorted(ways))
    if rng.random() < 0.15:
        del tensors[name]
        return f"no {name}"
    tensors[name] = ways[way]().clone()
    return f"{name}: {way}"
