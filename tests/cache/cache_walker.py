"""Finds every byte that an object keeps alive, by looking and not by knowing its classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import BuiltinFunctionType, FunctionType, ModuleType
from weakref import WeakSet

import torch

_OPAQUE = (str, bytes, int, float, complex, type, ModuleType, FunctionType, BuiltinFunctionType)


def reachable_bytes(root: object) -> int:
    """Bytes of all distinct tensor storages that can be reached from `root`."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(root, set())
    }
    return sum(storages.values())


def _tensors(value: object, seen: set[int]) -> Iterator[torch.Tensor]:
    if id(value) in seen or isinstance(value, _OPAQUE) or value is None:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    for part in _parts(value):
        yield from _tensors(part, seen)


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple, AbstractSet, WeakSet)):
        yield from value
    yield from getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield getattr(value, name, None)
