"""Holding a new token in plain torch: the specification of every faster version."""

from __future__ import annotations

import torch

LARGEST = torch.finfo(torch.float16).max
"""Stands in for an infinite value, which would poison every later token."""


def hold_token(
    new: tuple[torch.Tensor, torch.Tensor],
    slot: torch.Tensor,
    held: tuple[torch.Tensor, torch.Tensor],
    means: torch.Tensor,
) -> torch.Tensor:
    """Write a token's key, less the mean of its place, and its value; see `kernels.hold_token`."""
    key, value = new
    key = key - means.index_select(1, slot)
    for buffer, vector in zip(held, (key, value), strict=True):
        if vector.dtype == torch.float32:
            vector = vector.clamp(-LARGEST, LARGEST)
        buffer.index_copy_(1, slot, vector.to(buffer.dtype))
    return held[0] + means
