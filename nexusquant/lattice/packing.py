"""Small integers to bytes and back, to the last bit. Knows nothing of what the integers mean.

Eight fields of b bits fill b bytes, little end first: field i takes bits [i*b, (i+1)*b) of the
word whose lowest byte comes first.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nexusquant.lattice.box_code import check_bits

# fields and bytes of the smallest piece that ends on a byte border, by bits per field
_FIELDS_AND_BYTES = {1: (8, 1), 2: (4, 1), 3: (8, 3), 4: (2, 1), 5: (8, 5), 6: (4, 3)}


class PackedVectors(NamedTuple):
    """Coded vectors.

    Args:
        codes: Packed fields. [..., N, bytes], uint8.
        scales: Logarithmic codes of the vectors' scales. [..., N], uint8.
    """

    codes: Tensor
    scales: Tensor


def pack_fields(fields: Tensor, bits: int) -> Tensor:
    """Pack fields without a spare bit.

    Args:
        fields: Fields in [0, 2^bits). [..., D], uint8, D divisible by 8.
        bits: Bits per field, one of `CODE_BITS`.

    Returns:
        Packed bytes. [..., D * bits / 8], uint8.

    Raises:
        ValueError: An unknown width, or D not divisible by 8.
    """
    check_bits(bits)
    dim = fields.shape[-1]
    if dim % 8:
        raise ValueError(f"fields have {dim} values a vector; the number must be divisible by 8.")
    num_fields, num_bytes = _FIELDS_AND_BYTES[bits]
    pieces = fields.reshape(*fields.shape[:-1], dim // num_fields, num_fields)
    kind = _word_type(num_bytes)
    word = pieces[..., 0].to(kind)
    for i in range(1, num_fields):
        word |= pieces[..., i].to(kind) << (i * bits)
    packed = [(word >> (8 * j)).to(torch.uint8) for j in range(num_bytes)]
    return torch.stack(packed, dim=-1).flatten(-2)


def unpack_fields(packed: Tensor, bits: int) -> Tensor:
    """Undo `pack_fields`.

    Args:
        packed: Packed bytes. [..., D * bits / 8], uint8.
        bits: Bits per field, one of `CODE_BITS`.

    Returns:
        Fields in [0, 2^bits). [..., D], uint8.

    Raises:
        ValueError: An unknown width, or bytes that are not whole groups of 8 fields.
    """
    check_bits(bits)
    width = packed.shape[-1]
    if width % bits:
        raise ValueError(
            f"packed has {width} bytes a vector; {bits}-bit codes need a multiple of {bits}."
        )
    num_fields, num_bytes = _FIELDS_AND_BYTES[bits]
    pieces = packed.reshape(*packed.shape[:-1], width // num_bytes, num_bytes)
    kind = _word_type(num_bytes)
    word = pieces[..., 0].to(kind)
    for j in range(1, num_bytes):
        word |= pieces[..., j].to(kind) << (8 * j)
    mask = 2**bits - 1
    fields = [((word >> (i * bits)) & mask).to(torch.uint8) for i in range(num_fields)]
    return torch.stack(fields, dim=-1).flatten(-2)


def _word_type(num_bytes: int) -> torch.dtype:
    return torch.int32 if num_bytes < 4 else torch.int64
