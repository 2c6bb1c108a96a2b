"""Which digit of which word is which term of a product of tensor cores. Knows layouts of codes.

Tensor cores take matrices in pieces, spread over the lanes of a warp: of a product of 32 terms of
8 bits, lane `4 g + t` holds terms 4t to 4t + 3, and 16 more than these, of row (or column) g. Which
digit of which word becomes which term is free as long as both sides agree: `tiles.cu` takes digits
out where they stand, and the order here is the one that this gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from nexusquant.lattice.packing import CodeLayout

LANES = 4
"""Lanes that share a row; each has four terms, one a byte, of each of its registers."""

PARITY_HIGH = 16
"""A parity is put in twice, once and this often: its row needs more than 8 bits."""


class KeyShape(NamedTuple):
    """How many loads of which kind split a vector into digits.

    Args:
        words: Words of a vector.
        singles: Bytes of single bits.
        w8: Loads of eight words.
        w4: Loads of four.
        s16: Loads of sixteen bytes.
        s8: Loads of eight.
        wide: Loads up to the last one in which some digits count more than once.
    """

    words: int
    singles: int
    w8: int
    w4: int
    s16: int
    s8: int
    wide: int

    @classmethod
    def of(cls, widths: tuple[int, ...]) -> KeyShape:
        """The least loads for a code."""
        layout = CodeLayout.of(widths)
        fours, eights = -(-len(layout.words) // 4), -(-len(layout.singles) // 8)
        upper = [place for place, (_, digit) in enumerate(layout.words) if digit]
        return cls(
            *(len(layout.words), len(layout.singles)),
            *(fours // 2, fours % 2, eights // 2, eights % 2),
            1 + upper[-1] // 8 if upper else 0,
        )

    @property
    def num_slots(self) -> int:
        """Registers of digits and parities; a product of tensor cores takes two."""
        return 5 * self.w8 + 3 * self.w4 + 10 * self.s16 + 6 * self.s8


class Digit(NamedTuple):
    """One term: a digit of a word (two bits), a single bit, or a parity of either.

    Args:
        is_word: Of a word, not of a byte of single bits.
        place: Which word or byte.
        index: Which digit or bit; None: the parity.
        size: How often a parity is put in.
    """

    is_word: bool
    place: int
    index: int | None
    size: int = 1


Slot = list[Digit | None]
"""The sixteen terms of one register of a row's lanes."""


def key_slots(shape: KeyShape) -> list[Slot]:
    """What the registers hold, in the order in which `tiles.cu` fills them; an even number."""
    slots = [slot for r in range(shape.w8) for slot in _word_slots(8 * r, 8)]
    slots += _word_slots(8 * shape.w8, 4) if shape.w4 else []
    slots += [slot for r in range(shape.s16) for slot in _single_slots(16 * r, 16)]
    slots += _single_slots(16 * shape.s16, 8) if shape.s8 else []
    return slots + [[None] * 16] * (len(slots) % 2)


def _word_slots(first: int, count: int) -> Iterator[Slot]:
    """A lane's bytes are the halves of two words; of four words, lanes 2 and 3 have the same."""
    own = 2 * LANES // count

    def of(index: int | None, lane: int, byte: int) -> Digit | None:
        place = first + (2 * lane + byte // 2) % count
        if index is not None:
            return Digit(True, place, 4 * (byte % 2) + index + 2 * (2 * lane // count))
        size = PARITY_HIGH if byte % 2 else 1
        return Digit(True, place, None, size) if 2 * lane < count else None

    for index in (*range(4 // own), None):
        yield [of(index, lane, byte) for lane, byte in _bytes()]


def _single_slots(first: int, count: int) -> Iterator[Slot]:
    """A lane has four bytes; of eight bytes, lanes 2 and 3 have the same."""

    def place(lane: int, byte: int) -> int:
        return first + (4 * lane + byte) % count

    for bit in range(8 if count == 16 else 4):
        yield [
            Digit(False, place(lane, byte), bit + 4 * (4 * lane // count))
            for lane, byte in _bytes()
        ]
    for size in (1, PARITY_HIGH):
        yield [
            Digit(False, place(lane, byte), None, size) if 4 * lane < count else None
            for lane, byte in _bytes()
        ]


def _bytes() -> Iterator[tuple[int, int]]:
    return ((lane, byte) for lane in range(LANES) for byte in range(4))


def digit_units(widths: tuple[int, ...]) -> torch.Tensor:
    """What digits count, as `tiles.cu` multiplies them. [loads, 4 lanes, 2], int32.

    Of words: two numbers, for the lane's two words. Of bytes: four numbers in the bytes of one.
    """
    shape, layout = KeyShape.of(widths), CodeLayout.of(widths)
    of_words = [4**digit for _, digit in layout.words]
    of_singles = [2 ** (widths[group] - 1) for group in layout.singles]

    def at(units: list[int], place: int) -> int:
        return units[place] if place < len(units) else 1

    loads = []
    word_loads = [(8 * r, 8) for r in range(shape.w8)] + [(8 * shape.w8, 4)] * shape.w4
    for first, count in word_loads:
        loads.append(
            [[at(of_words, first + (2 * t + s) % count) for s in range(2)] for t in range(LANES)]
        )
    byte_loads = [(16 * r, 16) for r in range(shape.s16)] + [(16 * shape.s16, 8)] * shape.s8
    for first, count in byte_loads:
        every = [[at(of_singles, first + (4 * t + b) % count) for b in range(4)] for t in range(4)]
        loads.append([[int.from_bytes(bytes(units), "little"), 0] for units in every])
    return torch.tensor(loads, dtype=torch.int32)


class ValueShape(NamedTuple):
    """How values are split where they are summed up: rows of eight words, rows of eight bytes."""

    words: int
    singles: int
    w8: int
    s8: int

    @classmethod
    def of(cls, widths: tuple[int, ...]) -> ValueShape:
        """The least rows for a code."""
        layout = CodeLayout.of(widths)
        words, singles = len(layout.words), len(layout.singles)
        return cls(words, singles, -(-words // 8), -(-singles // 8))


def value_terms(shape: ValueShape) -> list[Digit | None]:
    """What each row of a value's sums is, in the order in which `parts.cu` stores them."""
    return [
        *_value_rows(True, shape.w8, shape.words),
        *_value_rows(False, shape.s8, shape.singles),
    ]


def _value_rows(is_word: bool, num_rows: int, count: int) -> list[Digit | None]:
    def eight(row: int, index: int | None) -> list[Digit | None]:
        places = range(8 * row, 8 * row + 8)
        return [Digit(is_word, place, index) if place < count else None for place in places]

    terms: list[Digit | None] = []
    for row in range(num_rows):
        for index in range(4):
            terms += eight(row, index) + eight(row, index + 4)
    for row in range(0, num_rows, 2):
        terms += eight(row, None) + (eight(row + 1, None) if row + 1 < num_rows else [None] * 8)
    return terms
