"""Positive scales in 8 bits, with the same relative error at every size. Knows no vectors.

Code 0 is exactly 0; codes 1 to 255 are 2^((code - 1) / 12 - 13), twelve to an octave.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS_PER_OCTAVE = 12
"""Codes between a scale and its double."""

LOWEST_EXPONENT = -13
"""Binary logarithm of the smallest scale above zero, which has code 1."""


def encode_scale(scale: Tensor) -> Tensor:
    """Code each scale as the logarithmically nearest one that 8 bits can say.

    Args:
        scale: Scales, 0 or more. Any shape, floating. Above the largest, the code saturates;
            below half the smallest, it is 0.

    Returns:
        Codes. Same shape, uint8.
    """
    scale = scale.float()
    steps = STEPS_PER_OCTAVE * (scale.log2() - LOWEST_EXPONENT)
    codes = (steps.round() + 1).clamp(1, 255)
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
    exponent = (codes.float() - 1) / STEPS_PER_OCTAVE + LOWEST_EXPONENT
    return exponent.exp2().masked_fill(codes == 0, 0).to(dtype)


def round_scale(scale: Tensor) -> Tensor:
    """Round each scale to a grid eight times finer than the codes'.

    Working on a grid makes what follows insensitive to the last bits of a sum. That of the codes
    itself is too coarse: scales that grow a little from there would always round back to it.

    Args:
        scale: Scales, 0 or more. Any shape, float32.

    Returns:
        Scales, the smallest coded one or more. Same shape.
    """
    steps = (scale.clamp(min=2.0**LOWEST_EXPONENT).log2() * 8 * STEPS_PER_OCTAVE).round()
    return (steps / (8 * STEPS_PER_OCTAVE)).exp2()
