"""Which coordinate of a code is which term of a product of tensor cores. Knows layouts of codes.

Tensor cores take matrices in pieces, spread over the lanes of a warp: of a product of 32 terms of 8
bits, lane `4 g + t` holds terms 4t to 4t + 3, and 16 more than these, of row (or column) g. Which
coordinate becomes which term is free as long as both sides agree: `tiles.cu` and `values.cu` put
the digits of a coordinate together where they stand, and the order here is the one that this gives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from nexusquant.lattice import MOST_KEY_BITS, MOST_VALUE_BITS
from nexusquant.lattice.packing import WORD_BYTES, CodeLayout

LANES = 4
"""Lanes that share a row; each has four terms, one a byte, of each of its registers."""

ROW = 8
"""Groups that are taken apart together."""

_SMALLEST = 2.0**-24
"""The float16 number of bits 1: `values.cu` takes bits as numbers where they stand."""


class CodeShape(NamedTuple):
    """How much of each row of eight groups there is to read.

    Args:
        rows: Eights of groups that have bits; the last one may have fewer.
        digits: Four bits a row, lowest first: most words that one of its groups has.
        odd: One bit a row: whether one of its groups has single bits.
    """

    rows: int
    digits: int
    odd: int

    @classmethod
    def of(cls, widths: tuple[int, ...]) -> CodeShape:
        """That of a code."""
        rows = _rows(widths)
        digits = sum(max(width // 2 for width in row) << 4 * r for r, row in enumerate(rows))
        odd = sum(any(width % 2 for width in row) << r for r, row in enumerate(rows))
        return cls(len(rows), digits, odd)


class Term(NamedTuple):
    """One term: a coordinate of a group, or the group's parity.

    Args:
        group: Which of eight coordinates.
        index: Which of them; None: the parity.
        size: What the term is when its bits are 1.
    """

    group: int
    index: int | None
    size: float = 1


def key_terms(widths: tuple[int, ...]) -> list[Term | None]:
    """What the registers of keys hold, sixteen terms each, as `tiles.cu` fills them.

    A lane's bytes are two coordinates of each of two groups, in half steps. None is a coordinate of
    a group that is not there: whatever a register holds for it, its row is zeros.
    """
    terms: list[Term | None] = []
    for first in range(0, ROW * len(_rows(widths)), ROW):
        for index in range(LANES):
            for lane_byte in range(LANES * 4):
                group, upper = first + lane_byte // 2, lane_byte % 2
                terms.append(Term(group, index + LANES * upper))
    return _with_bits(terms, widths)


def value_terms(widths: tuple[int, ...]) -> list[Term | None]:
    """What each row of a value's sums is, in the order in which `values.cu` adds them up."""
    firsts = range(0, ROW * len(_rows(widths)), ROW)
    terms: list[Term | None] = []
    for first in firsts:
        for index in range(4):
            for coordinate in (index, index + 4):
                size = _SMALLEST * 4**index
                terms += [Term(first + lane, coordinate, size) for lane in range(ROW)]
    for first in firsts:
        terms += [Term(first + lane, None, _SMALLEST) for lane in range(ROW)]
    terms += [None] * (len(terms) % 16)
    return _with_bits(terms, widths)


def _with_bits(terms: list[Term | None], widths: tuple[int, ...]) -> list[Term | None]:
    num_groups = sum(width > 0 for width in widths)
    return [term if term is not None and term.group < num_groups else None for term in terms]


def key_places(widths: tuple[int, ...]) -> torch.Tensor:
    """Where a lane finds its two groups of each row. [rows, 4, 4], int32.

    Four numbers: the bytes at which the words of the first group begin, those of the second, then
    the bytes of their single bits, what there is, and what the single bits count in the bytes of
    a register. "What there is": a bit for each word of either group, and of either whether its
    single bits are all it has.

    Raises:
        ValueError: A group has more than `MOST_KEY_BITS`.
    """
    if max(widths) > MOST_KEY_BITS:
        raise ValueError(f"widths are {widths}; keys have at most {MOST_KEY_BITS} bits.")
    table = [
        [_key_place(widths, row + 2 * lane) for lane in range(LANES)]
        for row in range(0, ROW * len(_rows(widths)), ROW)
    ]
    return torch.tensor(table, dtype=torch.int64).to(torch.int32)


def _key_place(widths: tuple[int, ...], group: int) -> list[int]:
    own = [_place(widths, group), _place(widths, group + 1)]
    words = [_packed(place.words) for place in own]
    there = sum(2 ** len(place.words) - 1 << 4 * n for n, place in enumerate(own))
    there |= sum(place.is_one_bit << 8 + n for n, place in enumerate(own))
    # coordinates stand in half steps
    units = [2 * place.single_unit for place in own for _ in range(2)]
    singles = _packed([place.single for place in own])
    return [*words, singles | there << 16, _signed(_packed(units))]


def value_places(widths: tuple[int, ...]) -> torch.Tensor:
    """Where a lane finds its group of each row. [rows, 8], int32.

    Bytes: of the first word, of the second, of the single bits; and what there is: bits 0 and 1
    for the words, 2 for single bits above a word, 3 for single bits that are all there is.

    Raises:
        ValueError: A group has more than `MOST_VALUE_BITS`.
    """
    if max(widths) > MOST_VALUE_BITS:
        raise ValueError(f"widths are {widths}; values have at most {MOST_VALUE_BITS} bits.")
    table = []
    for group in range(ROW * len(_rows(widths))):
        place = _place(widths, group)
        has_single = place.single_unit > 0
        there = 2 ** len(place.words) - 1
        there |= (has_single and not place.is_one_bit) << 2 | place.is_one_bit << 3
        words = (*place.words, 0, 0)[:2]
        table.append(_packed([*words, place.single, there]))
    return torch.tensor(table, dtype=torch.int64).to(torch.int32).unflatten(0, (-1, ROW))


class _Place(NamedTuple):
    """Bytes at which the parts of a group begin; a unit of 0 says that it has no single bits."""

    words: tuple[int, ...] = ()
    single: int = 0
    single_unit: int = 0
    is_one_bit: bool = False


def _place(widths: tuple[int, ...], group: int) -> _Place:
    if group >= len(widths) or widths[group] == 0:
        return _Place()
    layout, width = CodeLayout.of(widths), widths[group]
    words = tuple(WORD_BYTES * layout.words.index((group, digit)) for digit in range(width // 2))
    if width % 2 == 0:
        return _Place(words)
    single = WORD_BYTES * len(layout.words) + layout.singles.index(group)
    return _Place(words, single, 2 ** (width - 1), width == 1)


def _rows(widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    coded = tuple(filter(None, widths))
    return [coded[first : first + ROW] for first in range(0, len(coded), ROW)]


def _packed(parts: list[int] | tuple[int, ...]) -> int:
    return int.from_bytes(bytes(parts), "little")


def _signed(number: int) -> int:
    return number - 2**32 if number >= 2**31 else number
