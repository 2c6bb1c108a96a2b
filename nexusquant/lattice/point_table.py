"""Packed box codes straight to values by table look-up: the fast decode on a CPU.

Knows how `packing` lays out bits and what `box_code` makes of fields; knows no scales. A word of
a subvector's bytes indexes rows of ready values, so that decoding is one gather. Words of 1 and
2 bits hold a whole subvector. Of 3 and 4 bits the table would be too large: a word is half a
subvector, and the parity of both halves together is part of the index. Of more bits even that is
too large: those few are computed.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from nexusquant.lattice.box_code import check_bits, decode_box
from nexusquant.lattice.e8 import DIM
from nexusquant.lattice.packing import unpack_fields

MOST_TABLE_BITS = 4
"""Widest code that is decoded by table."""


def decode_packed(packed: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Decode packed codes; equal to `decode_box(unpack_fields(packed))`, many times faster.

    Words are read in the byte order of the machine, which must be little-endian.

    Args:
        packed: Packed codes. [..., D * bits / 8], uint8.
        bits: Bits per value, one of `CODE_BITS`.
        dtype: Floating type of the result; float16 and bfloat16 hold every value exactly.

    Returns:
        Values in units of the step. [..., D].

    Raises:
        ValueError: An unknown width, or bytes that are not whole subvectors.
    """
    check_bits(bits)
    width = packed.shape[-1]
    if width % bits:
        raise ValueError(
            f"packed has {width} bytes a vector; {bits}-bit codes need a multiple of {bits}."
        )
    if bits > MOST_TABLE_BITS:
        groups = unpack_fields(packed, bits).unflatten(-1, (-1, DIM))
        return decode_box(groups, bits).flatten(-2).to(dtype)
    table = word_table(bits, packed.device, dtype)
    values = table.index_select(0, _row_index(packed.reshape(-1), bits))
    return values.view(*packed.shape[:-1], width // bits * DIM)


@lru_cache(maxsize=64)
def word_table(bits: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Make the table of values for every word, a constant of the code.

    Args:
        bits: Bits per value, up to `MOST_TABLE_BITS`.
        device: Where the table lives.
        dtype: Floating type of the values.

    Returns:
        For 1 and 2 bits, row w holds the 8 values of word w: [2^(8 bits), 8]. For 3 and 4 bits,
        row (half * 2 + parity) * 2^(4 bits) + w holds the 4 values of half-word w, where parity
        is that of the whole subvector: [4 * 2^(4 bits), 4].

    Raises:
        ValueError: An unknown width, or one without a table.
    """
    check_bits(bits)
    if bits > MOST_TABLE_BITS:
        raise ValueError(f"bits is {bits}; tables end at {MOST_TABLE_BITS}.")
    table = _table_of_subvectors(bits) if bits <= 2 else _table_of_halves(bits)
    return table.to(device=device, dtype=dtype)


def _table_of_subvectors(bits: int) -> Tensor:
    word = torch.arange(2 ** (DIM * bits), dtype=torch.int32)
    packed = torch.stack([(word >> (8 * j)).to(torch.uint8) for j in range(bits)], dim=-1)
    return decode_box(unpack_fields(packed, bits), bits)


def _table_of_halves(bits: int) -> Tensor:
    word = torch.arange(2 ** (4 * bits), dtype=torch.int32)
    shifts = torch.arange(0, 4 * bits, bits, dtype=torch.int32)
    half = (word.unsqueeze(1) >> shifts) & (2**bits - 1)
    half_parity = half.sum(dim=1) % 2
    blocks = []
    for is_upper in (False, True):
        for parity in (0, 1):
            # the other half only has to bring the parity of the whole to `parity`
            other = torch.zeros_like(half)
            other[:, 0] = half_parity ^ parity
            whole = torch.cat([other, half] if is_upper else [half, other], dim=1)
            values = decode_box(whole, bits)
            blocks.append(values[:, 4:] if is_upper else values[:, :4])
    return torch.cat(blocks)


def _row_index(packed: Tensor, bits: int) -> Tensor:
    """Rows of `word_table` for packed bytes [N], in the order of the values. [M], int32."""
    if bits == 1:
        return packed.to(torch.int32)
    if bits == 2:
        return _two_byte_words(packed)
    if bits == 3:
        low, middle, high = packed.view(-1, 3).to(torch.int32).unbind(dim=1)
        first = low | ((middle & 15) << 8)
        second = (middle >> 4) | (high << 4)
    else:
        first, second = _two_byte_words(packed).view(-1, 2).unbind(dim=1)
    block = 2 ** (4 * bits)
    parity_row = _fold_parity(first ^ second, bits) * block
    return torch.stack([first + parity_row, second + parity_row + 2 * block], dim=1).view(-1)


def _two_byte_words(packed: Tensor) -> Tensor:
    # torch views bytes as words only from an even place in the storage
    even = packed.clone() if packed.storage_offset() % 2 else packed
    return even.view(torch.int16).to(torch.int32) & 0xFFFF


def _fold_parity(half_word: Tensor, bits: int) -> Tensor:
    """Sum modulo 2 of the four fields in each half-word."""
    folded = half_word ^ (half_word >> (2 * bits))
    return (folded ^ (folded >> bits)) & 1
