"""TurboQuant: a random rotation, then the best scalar codebook for what it makes of a vector.

Reference: Zandieh, Daliri, Hadian, Mirrokni, "TurboQuant: Online Vector Quantization with
Near-optimal Distortion Rate", arXiv 2504.19874, section 3.1 (the variant for mean squared error).
The norm is stored in floating point, here in 16 bits. The variant for inner products spends one of
the bits on a sketch of the residual (QJL); those who tried both for KV caches left that out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nexusquant.lattice import pack_fields, unpack_fields
from peers.coded_layer import Coded

_GRID_POINTS = 200_001
_ROUNDS = 2_000


class TurboQuant:
    """Codes vectors in `bits` bits per value and a 16-bit norm.

    Args:
        dim: Values in one vector, divisible by 8.
        bits: Bits per value.
        seed: Seed of the rotation.
        device: Where the vectors live.
    """

    def __init__(self, dim: int, bits: int, seed: int, device: torch.device) -> None:
        self._bits = bits
        self._rotation = random_rotation(dim, seed).to(device)
        self._levels = lloyd_max_levels(dim, bits).to(device)

    def encode(self, vectors: Tensor) -> Coded:
        """Code vectors [H_kv, N, D]."""
        vectors = vectors.float()
        # vectors beyond the range of float16 are those of no model that runs in it
        norm = vectors.norm(dim=-1, keepdim=True).to(torch.float16)
        direction = (vectors / norm.float().clamp(min=1e-12)) @ self._rotation
        borders = (self._levels[1:] + self._levels[:-1]) / 2
        fields = torch.bucketize(direction, borders).to(torch.uint8)
        return pack_fields(fields, self._bits), norm

    def decode(self, coded: Coded) -> Tensor:
        """Rebuild vectors. [H_kv, N, D], float32."""
        packed, norm = coded
        direction = self._levels[unpack_fields(packed, self._bits).int()]
        return (direction @ self._rotation.T) * norm.float()


def random_rotation(dim: int, seed: int) -> Tensor:
    """A rotation drawn evenly from all (the Q of a Gaussian matrix). [dim, dim], float32."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def lloyd_max_levels(dim: int, bits: int) -> Tensor:
    """Levels with the least squared error for one coordinate of a random unit vector.

    The coordinate's density is proportional to (1 - x^2)^((dim - 3) / 2); Lloyd's rounds on a
    fine grid lead to the levels.

    Returns:
        Levels in rising order. [2^bits], float32.
    """
    reach = min(1.0, 8 / dim**0.5)
    grid = torch.linspace(-reach, reach, _GRID_POINTS, dtype=torch.float64)
    mass = (1 - grid.square()).clamp(min=0).pow((dim - 3) / 2)
    # sums up to each grid point: a cell's mass and moment are then two look-ups
    total_mass = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
    total_moment = torch.cat([mass.new_zeros(1), (mass * grid).cumsum(0)])
    quantiles = (torch.arange(2**bits, dtype=torch.float64) + 0.5) / 2**bits
    levels = grid[torch.searchsorted(total_mass[1:] / total_mass[-1], quantiles)]
    for _ in range(_ROUNDS):
        inner = torch.searchsorted(grid, (levels[1:] + levels[:-1]) / 2)
        cells = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), _GRID_POINTS)])
        levels = total_moment[cells].diff() / total_mass[cells].diff()
    return levels.float()
