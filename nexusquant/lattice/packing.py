"""Small integers to bytes and back, to the last bit. Knows nothing of what the integers mean.

Eight fields of b bits fill b bytes. They are split into digits of two bits, and for an odd b one
digit of a single bit at the top. The lowest digits of eight fields make a word of two bytes, field
i in bits 2i and 2i + 1; so do the next ones; the single bits make one byte, field i in bit i. Words
of one digit stand together, and all words before all bytes: what reads many fields at once, reads
one kind of word whatever the widths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nexusquant.lattice.box_code import check_bits
from nexusquant.lattice.e8 import DIM

WORD_BYTES = 2
"""Bytes of one digit of eight fields."""


class PackedVectors(NamedTuple):
    """Coded vectors.

    Args:
        codes: Packed fields. [..., N, bytes], uint8.
        scales: Logarithmic codes of the vectors' scales. [..., N], uint8.
    """

    codes: Tensor
    scales: Tensor


class CodeLayout(NamedTuple):
    """Which groups the words and the bytes of single bits of a whole vector belong to, in order.

    Args:
        words: Group and digit of each word.
        singles: Group of each byte of single bits.
    """

    words: tuple[tuple[int, int], ...]
    singles: tuple[int, ...]

    @classmethod
    def of(cls, widths: tuple[int, ...]) -> CodeLayout:
        """The layout of a vector whose groups have these bits, falling."""
        words: list[tuple[int, int]] = []
        singles: list[int] = []
        for width in dict.fromkeys(filter(None, widths)):
            groups = [group for group, of_group in enumerate(widths) if of_group == width]
            words += [(group, digit) for digit in range(width // 2) for group in groups]
            singles += groups if width % 2 else []
        return cls(tuple(words), tuple(singles))


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
    if fields.shape[-1] % DIM:
        raise ValueError(
            f"fields have {fields.shape[-1]} values a vector; the number must be divisible by 8."
        )
    groups = fields.unflatten(-1, (fields.shape[-1] // DIM, DIM))
    parts = []
    for digit in range(bits // 2):
        halves = ((groups >> (2 * digit)) & 3).unflatten(-1, (WORD_BYTES, 4))
        parts.append(_bits_of_byte(halves, 2).flatten(-2))
    if bits % 2:
        parts.append(_bits_of_byte(groups >> (bits - 1), 1))
    return torch.cat(parts, dim=-1)


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
    words, single_bits = split_digits(packed, bits)
    fields = torch.zeros_like(packed[..., :0])
    if single_bits is not None:
        fields = _fields_of(single_bits, 1) << (bits - 1)
    for digit, word in enumerate(words):
        part = _fields_of(word, 2) << (2 * digit)
        fields = part if fields.shape[-1] == 0 else fields | part
    return fields


def split_digits(packed: Tensor, bits: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The bytes of each digit of two bits, lowest first, and of the single bits or None.

    Raises:
        ValueError: An unknown width, or bytes that are not whole groups of 8 fields.
    """
    check_bits(bits)
    width = packed.shape[-1]
    if width % bits:
        raise ValueError(
            f"packed has {width} bytes a vector; {bits}-bit codes need a multiple of {bits}."
        )
    num_groups = width // bits
    of_words = packed[..., : _word_bytes(num_groups, bits)]
    words = of_words.split(num_groups * WORD_BYTES, dim=-1) if bits > 1 else ()
    return words, packed[..., of_words.shape[-1] :] if bits % 2 else None


def pack_vectors(fields: Tensor, widths: Sequence[int]) -> Tensor:
    """Pack whole vectors: the words of all groups first, then their single bits.

    Args:
        fields: Fields of the groups that have bits, in order. [..., 8 * groups], uint8.
        widths: Bits of each group, falling; 0 for those that are not stored.

    Returns:
        Packed bytes. [..., sum(widths)], uint8.
    """
    words, rest = [], []
    for width, count in _runs(widths):
        part, fields = fields[..., : DIM * count], fields[..., DIM * count :]
        packed = pack_fields(part, width)
        border = _word_bytes(count, width)
        words.append(packed[..., :border])
        rest.append(packed[..., border:])
    return torch.cat(words + rest, dim=-1)


def split_vectors(codes: Tensor, widths: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The bytes of each width, as `pack_fields` makes them.

    Args:
        codes: What `pack_vectors` made. [..., sum(widths)], uint8.
        widths: Its widths.

    Yields:
        A width and its bytes. [..., groups * width], uint8.
    """
    rest = codes[..., sum(_word_bytes(count, width) for width, count in _runs(widths)) :]
    for width, count in _runs(widths):
        border = _word_bytes(count, width)
        words, codes = codes[..., :border], codes[..., border:]
        num_singles = count * (width % 2)
        singles, rest = rest[..., :num_singles], rest[..., num_singles:]
        if border and num_singles:
            yield width, torch.cat([words, singles], dim=-1)
        else:
            yield width, words if border else singles


def _runs(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Each width in use, and how many groups have it."""
    return list(Counter(filter(None, widths)).items())


def _word_bytes(num_groups: int, bits: int) -> int:
    return num_groups * (bits // 2) * WORD_BYTES


def _bits_of_byte(digits: Tensor, bits: int) -> Tensor:
    """Digits of `bits` bits that fill a byte [..., 8 / bits], lowest first. [...], uint8."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=digits.device)
    return (digits << shifts).sum(dim=-1, dtype=torch.uint8)


def _fields_of(packed: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(-2)
