"""Attention over packed pages and exact vectors in one softmax; on a GPU by a kernel if it fits."""

from __future__ import annotations

import torch

from nexusquant.kernels.backend import triton_problem
from nexusquant.kernels.decode_attention import reference
from nexusquant.kernels.decode_attention.reference import PackedView

__all__ = ["PackedView", "decode_problem", "packed_attention"]

_LARGEST_DIM = 128
_LEAST_CAPABILITY = (8, 0)


def packed_attention(
    query: torch.Tensor,
    packed: PackedView | None,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attend causally to packed vectors and to exact ones; see `reference.packed_attention`.

    One token's queries on a GPU are compared with the packed part by a kernel. It multiplies in
    float16, so that logits err as those of any attention in float16 do.
    """
    exact = (exact_keys, exact_values, scaling, softcap)
    if packed is None or not _has_kernel(query, packed):
        return reference.packed_attention(query, packed, *exact)
    from nexusquant.kernels.decode_attention.triton_launch import attend_packed

    # kernels start on the current device, which another layer may have left
    with torch.cuda.device_of(query):
        sums = attend_packed(query[:, 0], packed, scaling, softcap)
    return reference.packed_attention(query, None, *exact, sums)


def decode_problem(device: torch.device, head_dim: int) -> str | None:
    """Say why packed pages are read without the kernel, or None if they are read with it.

    Args:
        device: Where the pages are.
        head_dim: Values of a key.
    """
    problem = triton_problem(device)
    if problem is not None:
        return problem
    if head_dim > _LARGEST_DIM:
        return f"vectors of {head_dim} values are too large for it"
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "it needs the memory of an Ampere card or a newer one"
    return None


def _has_kernel(query: torch.Tensor, packed: PackedView) -> bool:
    rotary = packed.rotary
    return (
        query.shape[1] == 1
        and packed.positions.shape[1] > 0
        # frequencies that change along the text are rare enough for torch
        and (rotary is None or len(rotary.segments) == 1)
        and decode_problem(query.device, packed.key_quantizer.dim) is None
    )
