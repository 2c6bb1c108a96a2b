"""Counts the bytes of tensors that are alive while some code runs. Knows torch only."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Watches every operation inside `with`: what it makes, and when that goes.

    Args:
        known: What was alive before and does not count.

    Attributes:
        now: Bytes alive of tensors made inside.
        peak: The most there were at one time.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, object] = {t.untyped_storage()._cdata: None for t in known}

    def __torch_dispatch__(self, function: Callable, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, num_bytes = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self.now += num_bytes
        self.peak = max(self.peak, self.now)

        def gone(_: weakref.ref) -> None:
            self.now -= num_bytes
            del self._known[address]

        self._known[address] = weakref.ref(storage, gone)
