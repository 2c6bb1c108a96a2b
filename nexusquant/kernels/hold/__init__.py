"""A new token's vectors among the exact ones: on a GPU in one kernel, elsewhere in plain torch."""

from __future__ import annotations

import torch

from nexusquant.kernels.backend import triton_problem
from nexusquant.kernels.hold import reference

__all__ = ["hold_token"]


def hold_token(
    new: tuple[torch.Tensor, torch.Tensor],
    slot: torch.Tensor,
    held: tuple[torch.Tensor, torch.Tensor],
    means: torch.Tensor,
) -> torch.Tensor:
    """Write a token's key and value to a place that the device knows; see `reference.hold_token`.

    Args:
        new: Its key [H_kv, 1, D] and value [H_kv, 1, D_v], any float type.
        slot: The place. [1], int64.
        held: Exact keys less their means [H_kv, E, D], float16, and values [H_kv, E, D_v], 16 bits;
            contiguous, changed in that place.
        means: What keys of each place are held less of. [H_kv, E, D], float32, contiguous.

    Returns:
        All keys with their means. [H_kv, E, D], float32.
    """
    if triton_problem(slot.device) is not None:
        return reference.hold_token(new, slot, held, means)
    from nexusquant.kernels.hold import triton_launch

    return triton_launch.hold_token(new, slot, held, means)
