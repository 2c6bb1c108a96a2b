"""Files of caches and profiles with other contents and right checksums: an attacker's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open

from nexusquant.cache.file.checked import write_checked

Change = Callable[[dict[str, torch.Tensor], dict], object]


def rewrite(path: Path, kind: str, change: Change) -> None:
    """Let `change(tensors, header)` lie."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()[kind][64:])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    del header["sha256_of_tensors"]
    change(tensors, header)
    write_checked(path, kind, tensors, header)


def with_text(text: str) -> str:
    """A header's text behind its checksum, as files have it."""
    return hashlib.sha256(text.encode()).hexdigest() + text
