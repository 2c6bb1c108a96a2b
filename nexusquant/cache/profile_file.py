"""A model's profile as a file: safetensors, with what are no tensors in its header.

Knows the format. Must not know when a profile is measured.
"""

from __future__ import annotations

import json
import os
from math import inf
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nexusquant.cache.profile import ModelProfile
from nexusquant.errors import CacheStateError
from nexusquant.lattice import KeyBasis, Pairing

# raise this, too, when something else is measured: what a file holds is then measured again
FORMAT_VERSION = 5
_HEADER = "nexusquant_profile"
_PARTS = ("mean", "rows", "variances")


def save_profile(profile: ModelProfile, path: Path) -> None:
    """Write a profile, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {
        f"{index}.{name}": tensor.contiguous().cpu()
        for index, basis in enumerate(profile.bases)
        if basis is not None
        for name, tensor in zip(_PARTS, basis, strict=True)
    }
    header = {
        "format_version": FORMAT_VERSION,
        "pairings": [str(p) for p in profile.pairings],
        "value_costs": profile.value_costs,
    }
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, str(partial), metadata={_HEADER: json.dumps(header)})
        os.replace(partial, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load_profile(path: Path) -> ModelProfile:
    """Read what `save_profile` wrote.

    Raises:
        CacheStateError: There is none, of another format version, or damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            if header["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {header['format_version']}")
            pairings = tuple(map(Pairing, header["pairings"]))
            names = set(file.keys())
            bases = tuple(
                KeyBasis(*(file.get_tensor(f"{index}.{name}") for name in _PARTS))
                if f"{index}.mean" in names
                else None
                for index in range(len(pairings))
            )
            value_costs = tuple(header["value_costs"])
            for basis, cost in zip(bases, value_costs, strict=True):
                if (basis is None) != (cost is None) or not 0 <= (cost or 0) < inf:
                    raise ValueError(f"a cost of values of {cost}")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CacheStateError(f"{path.name} is no profile that can be read ({error}).") from error
    return ModelProfile(pairings, bases, value_costs)
