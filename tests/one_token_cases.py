"""What a model does with one token, as tensors. Knows no kernel."""

from __future__ import annotations

import torch


def norm_case(dtype: torch.dtype, num_rows: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of sizes that differ, and a weight."""
    generator = torch.Generator().manual_seed(dim)
    sizes = 10 ** torch.linspace(-2, 2, num_rows).view(1, num_rows, 1)
    x = torch.randn(1, num_rows, dim, generator=generator) * sizes
    return x.to(dtype), (1 + torch.randn(dim, generator=generator)).to(dtype)


def rotation_case(dtype: torch.dtype, dim: int, turned: int) -> tuple[torch.Tensor, ...]:
    """Six heads of queries and two of keys, with gaps between them, and angles."""
    generator = torch.Generator().manual_seed(dim)
    wide = torch.randn(1, 1, 8, dim + 16, generator=generator).to(dtype)[..., :dim]
    heads = wide.transpose(1, 2)
    angles = torch.randn(1, 1, turned // 2, generator=generator).mul(9).repeat(1, 1, 2)
    return heads[:, :6], heads[:, 6:], angles.cos().to(dtype), angles.sin().to(dtype)


def matrix_case(dtype: torch.dtype, num_rows: int, width: int) -> tuple[torch.Tensor, ...]:
    """A vector, two matrices and a bias."""
    generator = torch.Generator().manual_seed(width)
    shapes = ((1, 1, width), (num_rows, width), (num_rows, width), (num_rows,))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def assert_one_rounding_apart(
    actual: torch.Tensor, expected: torch.Tensor, num_roundings: int = 1
) -> None:
    """Sums in another order end on the other side of a border between two numbers at most."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    step = torch.finfo(expected.dtype).eps * num_roundings
    difference = (actual.float() - expected.float()).abs()
    # a sum that nearly vanishes is as exact as its terms are
    size = expected.float().abs() + 0.01 * expected.float().abs().mean()
    assert (difference <= 1.01 * step * size).all()
    assert (difference == 0).float().mean() > 0.7
