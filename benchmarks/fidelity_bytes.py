"""Counts the bytes of every tensor that an object keeps alive, by looking and not by a formula.

Knows Python objects and torch tensors. Must not know any cache: ours and the peers' are measured
by the same walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from weakref import ReferenceType

import torch

_OPAQUE = (
    *(str, bytes, int, float, complex, type, torch.dtype, torch.device),
    *(ModuleType, FunctionType, BuiltinFunctionType, MethodType, ReferenceType),
)


def held_bytes(root: object, besides: torch.nn.Module) -> int:
    """Bytes of all distinct tensor storages that can be reached from `root`.

    Args:
        root: Anything: attributes, slots, lists, mappings and tensor subclasses are followed.
        besides: A model; its own weights do not count, should `root` lead to them.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in besides.state_dict().values()}
    own |= {buffer.untyped_storage().data_ptr() for buffer in besides.buffers()}
    # a walk into the model would find its weights only, but also all that others hang on it
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _plain_tensors(root, {id(module) for module in besides.modules()})
    }
    return sum(size for pointer, size in storages.items() if pointer not in own)


def _plain_tensors(root: object, seen: set[int]) -> Iterator[torch.Tensor]:
    waiting = [root]
    # objects that are made on the way must live on, or their id could be another one's
    alive = []
    while waiting:
        value = waiting.pop()
        if value is None or isinstance(value, _OPAQUE) or id(value) in seen:
            continue
        seen.add(id(value))
        alive.append(value)
        if isinstance(value, torch.Tensor) and not hasattr(value, "__tensor_flatten__"):
            yield value
        waiting.extend(_parts(value))


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, torch.Tensor) and hasattr(value, "__tensor_flatten__"):
        # the shell of a tensor subclass has a storage in name only; what it wraps is real
        names, _ = value.__tensor_flatten__()
        yield from (getattr(value, name) for name in names)
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple, AbstractSet)):
        yield from value
    yield from getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield getattr(value, name, None)
