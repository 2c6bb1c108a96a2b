"""Seeded orthonormal rotations that spread a vector over all coordinates. Knows no codes.

Applied as `x @ matrix`; the inverse is `x @ matrix.T`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotation_matrix(dim: int, seed: int) -> Tensor:
    """Make a dense rotation: random signs, then Hadamard (power of two) x cosine (odd part).

    The same arguments give the same matrix; the global random state is neither read nor changed.

    Args:
        dim: Values in one vector; positive and divisible by 8.
        seed: Seed of the random signs.

    Returns:
        Orthonormal matrix. [dim, dim], float32, on the CPU.

    Raises:
        ValueError: `dim` is not a positive multiple of 8.

    Reference:
        Randomised Hadamard transform before quantizing: QuIP#, arXiv 2402.04396, section 3.
    """
    if dim < 8 or dim % 8:
        raise ValueError(f"dim is {dim}; it must be a positive multiple of 8.")
    odd_part = dim
    while odd_part % 2 == 0:
        odd_part //= 2
    spread = torch.kron(hadamard(dim // odd_part), _cosine(odd_part))
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (dim, 1), generator=generator) - 1
    return (signs * spread).float().contiguous()


def hadamard(dim: int) -> Tensor:
    """Orthonormal Hadamard matrix of Sylvester, `dim` a power of two. [dim, dim], float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    butterfly = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while matrix.shape[0] < dim:
        matrix = torch.kron(matrix, butterfly)
    return matrix / math.sqrt(dim)


def _cosine(dim: int) -> Tensor:
    """Orthonormal DCT-II, one basis vector per column."""
    index = torch.arange(dim, dtype=torch.float64)
    matrix = torch.cos(math.pi / dim * (index.unsqueeze(1) + 0.5) * index)
    matrix[:, 0] *= math.sqrt(0.5)
    return matrix * math.sqrt(2 / dim)
