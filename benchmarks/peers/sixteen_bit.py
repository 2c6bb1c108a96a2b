"""Lets a cache layer keep its tensors in 16 bits whatever the model computes in.

A model on a CPU computes in float32, and a layer of transformers would then hold its scales and
its exact tokens in 32 bits, which nobody does who wants to save memory.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


def to_16_bit(tensor: Tensor) -> Tensor:
    """The tensor in float16, or as it is when its type has 16 bits already."""
    return tensor.to(torch.float16) if tensor.dtype == torch.float32 else tensor


class SixteenBitLayer(CacheLayerMixin):
    """A layer that is given 16-bit keys and values, and hands out the model's type.

    Args:
        inner: The layer that does the work.
    """

    is_sliding = False

    def __init__(self, inner: CacheLayerMixin) -> None:
        super().__init__()
        self._inner = inner

    def keep_new_exact(self) -> None:
        """Let no residual window fill up; a layer without one (fp8) goes on as before."""
        if hasattr(self._inner, "residual_length"):
            self._inner.residual_length = sys.maxsize

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Left to the layer inside, which does it with its first vectors."""
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **options: object
    ) -> tuple[Tensor, Tensor]:
        """Take new keys and values [1, H_kv, T, D]; return all that the layer inside returns."""
        self.is_initialized = True
        held = self._inner.update(to_16_bit(key_states), to_16_bit(value_states), *args, **options)
        return held[0].to(key_states.dtype), held[1].to(value_states.dtype)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys there will be, and the position of the first."""
        return self._inner.get_mask_sizes(query_length)

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self._inner.get_seq_length()

    def get_max_length(self) -> int:
        """No limit."""
        return self._inner.get_max_length()
