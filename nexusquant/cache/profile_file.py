"""A model's profile as a file: tensors with checksums, and what are no tensors in its header.

Knows the format, and what a profile of a model looks like. Must not know when it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from nexusquant.cache.file.checked import CheckedFile, open_checked, write_checked
from nexusquant.cache.hf_compat import head_counts, head_dims
from nexusquant.cache.profile import ModelProfile, compressible_layers
from nexusquant.errors import CacheStateError
from nexusquant.lattice import KeyBasis, Pairing

# raise this, too, when something else is measured: what a file holds is then measured again
FORMAT_VERSION = 6
_KIND = "nexusquant_profile"
_MOST_COST = 1e30
_PARTS = ("mean", "rows", "variances")


@dataclass(frozen=True)
class _Layer:
    """What a layer's part of a profile must look like.

    Args:
        num_kv_heads: Heads of keys and values.
        head_dim: Values in one key.
        is_compressed: Whether there is a part at all.
    """

    num_kv_heads: int
    head_dim: int
    is_compressed: bool

    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of `_PARTS`."""
        heads, dim = self.num_kv_heads, self.head_dim
        return (heads, 1, dim), (heads, dim, dim), (heads, dim // 8)


def save_profile(profile: ModelProfile, path: Path) -> None:
    """Write a profile, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    tensors = {
        f"{index}.{name}": tensor
        for index, basis in enumerate(profile.bases)
        if basis is not None
        for name, tensor in zip(_PARTS, basis, strict=True)
    }
    header = {
        "format_version": FORMAT_VERSION,
        "pairings": [str(p) for p in profile.pairings],
        "value_costs": profile.value_costs,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checked(path, _KIND, tensors, header)


def load_profile(path: Path, model: PreTrainedModel | None = None) -> ModelProfile:
    """Read what `save_profile` wrote.

    Args:
        path: Which file.
        model: Whose it must be; None: its shapes are looked at when it is used.

    Raises:
        CacheStateError: There is none, of another format version, of another model, or damaged.
    """
    try:
        with open_checked(path, _KIND, FORMAT_VERSION) as file:
            profile = _profile_from(file)
        if model is not None:
            _check_fits(profile, model)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CacheStateError(f"{path.name} is no profile that can be read ({error}).") from error
    return profile


def _profile_from(file: CheckedFile) -> ModelProfile:
    pairings = tuple(map(Pairing, file.header["pairings"]))
    value_costs = tuple(file.header["value_costs"])
    names = set(file.names)
    bases = tuple(
        KeyBasis(*(file.tensor(f"{index}.{name}") for name in _PARTS))
        if f"{index}.mean" in names
        else None
        for index in range(len(pairings))
    )
    num_read = sum(len(_PARTS) for basis in bases if basis is not None)
    if num_read != len(names):
        raise ValueError("it has tensors that belong to no layer")
    for basis, cost in zip(bases, value_costs, strict=True):
        is_cost = type(cost) in (int, float) and 0 <= cost <= _MOST_COST
        if (basis is None) != (cost is None) or not (is_cost or cost is None):
            raise ValueError(f"a cost of values of {str(cost)[:40]}")
        _check_numbers(basis)
    return ModelProfile(pairings, bases, value_costs)


def _check_numbers(basis: KeyBasis | None) -> None:
    for name, part in zip(_PARTS, basis or (), strict=False):
        if part.dtype != torch.float32 or not bool(part.isfinite().all()):
            raise ValueError(f"its {name} is not made of finite numbers")
    if basis is None:
        return
    if bool((basis.variances < 0).any()):
        raise ValueError("a variance below nothing")
    # coordinates are found by the inverse
    if basis.rows.dim() != 3 or bool(torch.linalg.inv_ex(basis.rows.double()).info.any()):
        raise ValueError("its rows are no basis")


def _check_fits(profile: ModelProfile, model: PreTrainedModel) -> None:
    compressed = set(compressible_layers(model))
    counts, dims = head_counts(model.config), head_dims(model.config)
    layers = [
        _Layer(num_kv_heads, dim, index in compressed)
        for index, ((_, num_kv_heads), dim) in enumerate(zip(counts, dims, strict=True))
    ]
    for layer, basis in zip(layers, profile.bases, strict=True):
        if (basis is not None) != layer.is_compressed:
            raise ValueError("it is not of the model's layers")
        if basis is not None and tuple(tuple(part.shape) for part in basis) != layer.shapes():
            raise ValueError("it is not of the model's heads")
