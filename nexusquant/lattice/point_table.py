"""Packed box codes straight to values by table look-up: the fast decode on a CPU.

Knows how `packing` lays out bits and what `box_code` makes of fields; knows no scales. The lowest
digits of a subvector's fields are one word, which also says the parity of their sum: it indexes
rows of ready values, and a further digit adds a row of another table.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from nexusquant.lattice.box_code import decode_box
from nexusquant.lattice.e8 import DIM
from nexusquant.lattice.packing import split_digits, unpack_fields


def decode_packed(packed: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Decode packed codes; equal to `decode_box(unpack_fields(packed))`, many times faster.

    Words are read in the byte order of the machine, which must be little-endian.

    Args:
        packed: Packed codes. [..., D * bits / 8], uint8.
        bits: Bits per value, one of `CODE_BITS`.
        dtype: Floating type of the result; float16 holds every value exactly, bfloat16 up to 6
            bits.

    Returns:
        Values in units of the step. [..., D].

    Raises:
        ValueError: An unknown width, or bytes that are not whole subvectors.
    """
    words, single_bits = split_digits(packed, bits)
    device = packed.device
    if bits == 1:
        values = value_table(1, device, dtype).index_select(0, single_bits.reshape(-1).int())
    else:
        values = value_table(2, device, dtype).index_select(0, _two_byte_words(words[0]))
        for digit, word in enumerate(words[1:], start=1):
            rows = digit_table(2, device, dtype).index_select(0, _two_byte_words(word))
            values = values.add_(rows, alpha=4**digit)
        if single_bits is not None:
            rows = digit_table(1, device, dtype).index_select(0, single_bits.reshape(-1).int())
            values = values.add_(rows, alpha=2 ** (bits - 1))
        if bits > 2:
            # the table centres two bits
            values = values.sub_(2 ** (bits - 1) - 2)
    return values.view(*packed.shape[:-1], packed.shape[-1] // bits * DIM)


@lru_cache(maxsize=64)
def value_table(bits: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The values of every word of a code of 1 or 2 bits, a constant. [2^(8 bits), 8]."""
    return decode_box(_fields_of_words(bits), bits).to(device=device, dtype=dtype)


@lru_cache(maxsize=64)
def digit_table(bits: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The digits of every word of 1 or 2 bits a digit, a constant. [2^(8 bits), 8]."""
    return _fields_of_words(bits).to(device=device, dtype=dtype)


def _fields_of_words(bits: int) -> Tensor:
    word = torch.arange(2 ** (DIM * bits), dtype=torch.int32)
    packed = torch.stack([(word >> (8 * j)).to(torch.uint8) for j in range(bits)], dim=-1)
    return unpack_fields(packed, bits)


def _two_byte_words(packed: Tensor) -> Tensor:
    """The words in bytes [..., 2 n]. [all of them], int32."""
    # torch views bytes as words only from an even place in the storage
    flat = packed.reshape(-1)
    even = flat.clone() if flat.storage_offset() % 2 else flat
    return even.view(torch.int16).to(torch.int32) & 0xFFFF
