"""The E8 box code: 8 values in 8b bits, without a table. Knows no packing, scales or rotations.

Eight fields f of b bits name the point p = f - 2^(b-1) + parity * h with parity = (sum f) mod 2
and h = (-1/2, +1/2 x 7). An even sum gives a point of D8. An odd sum gives half-odd coordinates
whose sum is odd + 3, which is even. So p is always a point of E8, and every word is used once.
The value it stands for is p + (3/4, 1/4 x 7), which centres each coordinate on zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from nexusquant.config import CODE_BITS
from nexusquant.lattice.e8 import DIM

CENTRE_OFFSET = (0.75, *(0.25,) * 7)
"""Reconstructed value minus lattice point, in steps."""

ODD_COSET_SHIFT = (-0.5, *(0.5,) * 7)
"""What an odd field sum adds to every coordinate, in steps."""

STEP_PER_RMS: Mapping[int, float] = MappingProxyType(
    {1: 1.573, 2: 0.990, 3: 0.583, 4: 0.336, 5: 0.189, 6: 0.105, 7: 0.0575, 8: 0.0315}
)
"""Lattice step over the RMS of Gaussian data that makes the squared error least, by bits."""

GAUSSIAN_ERROR: Mapping[int, float] = MappingProxyType(
    {
        0: 1.0,
        1: 0.3410,
        2: 0.1022,
        3: 0.03179,
        4: 0.009906,
        5: 0.003030,
        6: 0.000907,
        7: 0.000267,
        8: 0.0000769,
    }
)
"""Squared error of that step, relative to the energy of the data, by bits; 0 bits: all of it."""


def encode_box(y: Tensor, bits: int) -> Tensor:
    """Name the codebook value nearest to each subvector; exact, also outside the box.

    Args:
        y: Subvectors in units of the step. [..., 8], floating, finite.
        bits: Bits per field, one of `CODE_BITS`.

    Returns:
        Fields in [0, 2^bits). [..., 8], uint8.

    Raises:
        ValueError: An unknown width, or a last dimension other than 8.

    Reference:
        Decoding of D8 and its cosets: Conway and Sloane, IEEE Trans. Inform. Theory 28(2), 1982.
        The box and its parity rule: ours.
    """
    check_bits(bits)
    if y.shape[-1:] != (DIM,):
        raise ValueError(f"y has shape {tuple(y.shape)}; the last dimension must be {DIM}.")
    # coordinates first: sums over eight long rows are much faster than over rows of eight
    position = y.reshape(-1, DIM).t().float() + (1 << (bits - 1))
    offset = position.new_tensor(CENTRE_OFFSET).unsqueeze(1)
    shift = position.new_tensor(ODD_COSET_SHIFT).unsqueeze(1)
    position = position - offset
    even, even_distance = _nearest_with_parity(position, 0, bits)
    odd, odd_distance = _nearest_with_parity(position - shift, 1, bits)
    fields = torch.where(odd_distance < even_distance, odd, even)
    return fields.to(torch.uint8).t().reshape(y.shape)


def decode_box(fields: Tensor, bits: int) -> Tensor:
    """Rebuild the values that fields stand for.

    Args:
        fields: Fields in [0, 2^bits). [..., 8], integer.
        bits: Bits per field, one of `CODE_BITS`.

    Returns:
        Values in units of the step. [..., 8], float32.

    Raises:
        ValueError: An unknown width, or a last dimension other than 8.
    """
    check_bits(bits)
    if fields.shape[-1:] != (DIM,):
        shape = tuple(fields.shape)
        raise ValueError(f"fields have shape {shape}; the last dimension must be {DIM}.")
    parity = fields.sum(dim=-1, keepdim=True, dtype=torch.int32).remainder(2).float()
    values = fields.float()
    shift = values.new_tensor(ODD_COSET_SHIFT)
    return values - (1 << (bits - 1)) + values.new_tensor(CENTRE_OFFSET) + parity * shift


def check_bits(bits: int) -> None:
    """Refuse a width that no code exists for.

    Args:
        bits: Bits per value.

    Raises:
        ValueError: `bits` is not one of `CODE_BITS`.
    """
    if bits not in CODE_BITS:
        allowed = ", ".join(map(str, CODE_BITS))
        raise ValueError(f"bits is {bits!r}; choose one of {allowed}.")


def _nearest_with_parity(position: Tensor, parity: int, bits: int) -> tuple[Tensor, Tensor]:
    """Nearest fields to `position` [8, N] whose sum has this parity; also the squared distance."""
    top = 2**bits - 1
    # kept off the walls, a coordinate always leans to its second-best field inside the box
    inside = position.clamp(0.25, top - 0.25)
    fields = inside.round()
    residual = position - fields
    lean = inside.sub_(fields)
    # taking the second-best field instead of the best adds 1 - 2 * gain to the squared distance
    gain, index = (lean.sign() * residual).max(dim=0, keepdim=True)
    is_wrong = (fields.sum(dim=0, keepdim=True).remainder(2) != parity).float()
    distance = residual.square_().sum(dim=0, keepdim=True) + (1 - 2 * gain) * is_wrong
    move = torch.where(lean.gather(0, index) > 0, is_wrong, -is_wrong)
    return fields.scatter_add_(0, index, move), distance
