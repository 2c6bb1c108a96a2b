"""Starts the kernel that holds a token. Imports Triton."""

from __future__ import annotations

import torch
import triton

from nexusquant.kernels.hold.triton_kernel import hold_kernel


def hold_token(
    new: tuple[torch.Tensor, torch.Tensor],
    slot: torch.Tensor,
    held: tuple[torch.Tensor, torch.Tensor],
    means: torch.Tensor,
) -> torch.Tensor:
    """Write a token's key and value; see `kernels.hold_token`."""
    key, value = (vector if vector.stride(-1) == 1 else vector.contiguous() for vector in new)
    keys, values = held
    num_heads, num_slots, dim = keys.shape
    wide = torch.empty_like(means)
    with torch.cuda.device_of(keys):
        hold_kernel[(num_slots, num_heads)](
            *(key, key.stride(0), value, value.stride(0), slot, keys, values, means, wide),
            num_slots,
            DIM=dim,
            VALUE_DIM=values.shape[2],
            BLOCK=triton.next_power_of_2(max(dim, values.shape[2])),
            num_warps=1,
        )
    return wide
