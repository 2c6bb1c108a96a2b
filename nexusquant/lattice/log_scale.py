"""Positive scales in 8 bits, finest where most of them are. Knows no vectors.

Code 0 is exactly 0; code c from 1 to 255 is 2^(SPREAD * sinh((c - 128) / STEEPNESS)). Near 1, which
bases are normalised to, that is 37 steps to an octave, 27 an octave away and 13 three octaves away;
the ends lie 13 octaves out. An error of a scale is one of the whole vector along itself, where the
queries that attend to a key look: it costs more than its size says.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

SPREAD, STEEPNESS = 1.09, 40.0
"""Shape of the grid: SPREAD / STEEPNESS octaves are its finest step."""

CODE_OF_ONE = 128
"""Code of the scale 1."""

ROUNDING_STEPS = 256
"""Steps of an octave on which scales are tried."""

LOWEST_EXPONENT = -SPREAD * math.sinh((CODE_OF_ONE - 1) / STEEPNESS)
"""Binary logarithm of the smallest scale above zero, which has code 1."""


def encode_scale(scale: Tensor) -> Tensor:
    """Code each scale as one of the nearest that 8 bits can say.

    Args:
        scale: Scales, 0 or more. Any shape, floating. Above the largest, the code saturates;
            below half the smallest, it is 0.

    Returns:
        Codes. Same shape, uint8.
    """
    scale = scale.float()
    steps = STEEPNESS * torch.asinh(scale.log2() / SPREAD)
    codes = (steps.round() + CODE_OF_ONE).clamp(1, 255)
    is_nothing = scale < 2.0 ** (LOWEST_EXPONENT - 1)
    return codes.masked_fill(is_nothing, 0).to(torch.uint8)


def decode_scale(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Rebuild scales.

    Args:
        codes: Codes of `encode_scale`. Any shape, uint8.
        dtype: Floating type of the result.

    Returns:
        Scales, 0 for code 0. Same shape.
    """
    table = scale_table(codes.device, dtype)
    return table.index_select(0, codes.reshape(-1).int()).view(codes.shape)


@lru_cache(maxsize=16)
def scale_table(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The scale of every code, a constant. [256]."""
    exponents = [SPREAD * math.sinh((code - CODE_OF_ONE) / STEEPNESS) for code in range(1, 256)]
    table = torch.tensor([0.0, *(2.0**exponent for exponent in exponents)])
    return table.to(device=device, dtype=dtype)


def round_scale(scale: Tensor) -> Tensor:
    """Round each scale to a grid much finer than the codes'.

    Working on a grid makes what follows insensitive to the last bits of a sum. That of the codes
    itself is too coarse: scales that grow a little from there would always round back to it.

    Args:
        scale: Scales, 0 or more. Any shape, float32.

    Returns:
        Scales, the smallest coded one or more. Same shape.
    """
    steps = (scale.clamp(min=2.0**LOWEST_EXPONENT).log2() * ROUNDING_STEPS).round()
    return (steps / ROUNDING_STEPS).exp2()
