"""Tokens to hold, and what is held already. Knows no kernel."""

from __future__ import annotations

import torch


def hold_case(
    dtype: torch.dtype, dim: int = 80, value_dim: int = 48, num_slots: int = 21
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], torch.Tensor]:
    """A new key and value of three heads with strides, what is held, and the means."""
    generator = torch.Generator().manual_seed(dim)
    key = torch.randn(1, 3, dim, generator=generator).mul(50).to(dtype).transpose(0, 1)
    value = torch.randn(3, 2, value_dim, generator=generator).to(dtype)[:, :1]
    kept = torch.float16 if dtype == torch.float32 else dtype
    keys = torch.randn(3, num_slots, dim, generator=generator).half()
    values = torch.randn(3, num_slots, value_dim, generator=generator).to(kept)
    means = torch.randn(3, num_slots, dim, generator=generator) * 100
    return (key, value), (keys, values), means
