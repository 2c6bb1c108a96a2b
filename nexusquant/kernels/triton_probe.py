"""The smallest kernel: shows that Triton can build and run one. Imports Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 64


@triton.jit
def double_kernel(numbers, doubled, count, BLOCK: tl.constexpr):
    """Write twice the number; one program per BLOCK numbers."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_there = index < count
    tl.store(doubled + index, 2 * tl.load(numbers + index, mask=is_there), mask=is_there)


def double(numbers: torch.Tensor) -> torch.Tensor:
    """Twice each number. [N], int32."""
    doubled = torch.empty_like(numbers)
    grid = (triton.cdiv(numbers.numel(), _BLOCK),)
    with torch.cuda.device_of(numbers):
        double_kernel[grid](numbers, doubled, numbers.numel(), _BLOCK)
    return doubled
