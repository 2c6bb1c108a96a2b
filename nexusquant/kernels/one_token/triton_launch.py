"""Starts the kernels of one token's way through a layer. Imports Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton

from nexusquant.kernels.one_token.triton_kernel import (
    gated_kernel,
    linear_kernel,
    norm_kernel,
    projections_kernel,
    rotate_kernel,
)


class Tiling(NamedTuple):
    """How a matrix is cut.

    Args:
        rows: Rows of one program.
        chunk: Columns that it takes at a time; a power of two.
        num_warps: Of one program.
    """

    rows: int
    chunk: int
    num_warps: int


_MOST_AT_ONCE = 2048

_FUSES = False
"""A product fused into a sum is not rounded, as a model's own would be."""


def tiling_for(width: int) -> Tiling:
    """Choose a tiling: memory is busy where many programs wait for it on every processor."""
    return Tiling(1, min(_MOST_AT_ONCE, triton.next_power_of_2(width)), 4)


def norm_one(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `kernels.norm_one`."""
    dim = x.shape[-1]
    out = torch.empty_like(x)
    block = triton.next_power_of_2(dim)
    with torch.cuda.device_of(x):
        norm_kernel[(x.numel() // dim,)](
            *(x, weight, out, eps), DIM=dim, BLOCK=block, num_warps=8 if block >= 2048 else 1
        )
    return out


def rotate_one(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `kernels.rotate_one`."""
    dim, num_query_heads = query.shape[-1], query.shape[1]
    out = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (query, key))
    with torch.cuda.device_of(query):
        rotate_kernel[(num_query_heads + key.shape[1],)](
            *(query, query.stride(1), key, key.stride(1), cos, sin, *out, num_query_heads),
            DIM=dim,
            TURNED=cos.shape[-1],
            BLOCK=triton.next_power_of_2(dim),
            num_warps=1,
            enable_fp_fusion=_FUSES,
        )
    return out


def linear_one(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """See `kernels.linear_one`."""
    return _by_rows(linear_kernel, x, weight, bias, HAS_BIAS=bias is not None)


def projections_one(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """See `kernels.projections_one`."""
    counts = [weight.shape[0] for weight in weights]
    tiling = tiling_for(x.shape[-1])
    out = tuple(x.new_empty(*x.shape[:-1], count) for count in counts)
    with torch.cuda.device_of(x):
        projections_kernel[(sum(triton.cdiv(count, tiling.rows) for count in counts),)](
            *(x, *weights, *biases, *out, *counts),
            WIDTH=x.shape[-1],
            ROWS=tiling.rows,
            CHUNK=tiling.chunk,
            HAS_BIAS=biases[0] is not None,
            num_warps=tiling.num_warps,
        )
    return out


def gated_one(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """See `kernels.gated_one`."""
    return _by_rows(gated_kernel, x, gate, up)


def _by_rows(
    kernel: triton.JITFunction,
    x: torch.Tensor,
    weight: torch.Tensor,
    other: torch.Tensor | None,
    **constants: object,
) -> torch.Tensor:
    """Give every program some rows of a matrix, and of what goes with it."""
    num_rows, width = weight.shape
    tiling = tiling_for(width)
    out = x.new_empty(*x.shape[:-1], num_rows)
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(num_rows, tiling.rows),)](
            *(x, weight, other, out, num_rows),
            WIDTH=width,
            ROWS=tiling.rows,
            CHUNK=tiling.chunk,
            num_warps=tiling.num_warps,
            **constants,
        )
    return out
