"""What the digits of a code stand for, and which columns turn together, as tables for a kernel.

Knows the layout of codes; knows no kernel. Tables are constants of widths and sizes.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from nexusquant.lattice import E8Quantizer, Pairing
from nexusquant.lattice.box_code import CENTRE_OFFSET, ODD_COSET_SHIFT
from nexusquant.lattice.e8 import DIM as GROUP
from nexusquant.lattice.packing import CodeLayout

LEAST = 16
"""A matrix product of tensor cores has at least so many rows, columns and terms."""

WORD_FACTORS = tuple(4.0 ** (i if i < 5 else i - 3) for i in range(GROUP))
"""Size that a kernel gives each digit of a word: where it stands in it, or in it shifted by 6."""

SINGLE_FACTORS = tuple(2.0**i for i in range(GROUP))
"""The same for the single bits of a byte."""


class DigitTables(NamedTuple):
    """Digits come in eights: the first digits of all words, the second ones, ...; then bytes.

    Args:
        rows: Coordinate of each digit, -1 for padding. [8 (words + singles)], int32.
        sizes: Of each digit: what one of it is of the coordinate's steps; what an odd sum adds to
            the coordinate; what a field of 0 stands for; the middle digit, in the kernel's units.
            The second and the third are told once for every coordinate.
            [4, 8 (words + singles)], float32.
        num_words: Words of a vector.
        num_singles: Bytes of single bits.
        words: Words with padding.
        singles: Bytes with padding.
    """

    rows: torch.Tensor
    sizes: torch.Tensor
    num_words: int
    num_singles: int
    words: int
    singles: int


@functools.lru_cache(maxsize=1024)
def digit_tables(widths: tuple[int, ...], device: torch.device) -> DigitTables:
    """The tables of a code."""
    layout = CodeLayout.of(widths)
    words = max(LEAST, _power_of_two(len(layout.words)))
    singles = max(LEAST // 2, _power_of_two(len(layout.singles)))
    of_words, of_singles = _Rows(words, WORD_FACTORS, 1.5), _Rows(singles, SINGLE_FACTORS, 0.5)
    for place, (group, digit) in enumerate(layout.words):
        of_words.put(place, group, widths[group], 4.0**digit, digit == 0)
    for place, group in enumerate(layout.singles):
        width = widths[group]
        of_singles.put(place, group, width, 2.0 ** (width - 1), width == 1)
    rows = torch.cat([of_words.rows.flatten(), of_singles.rows.flatten()])
    sizes = torch.cat([of_words.sizes.flatten(1), of_singles.sizes.flatten(1)], dim=1)
    counts = (len(layout.words), len(layout.singles), words, singles)
    return DigitTables(rows.to(device), sizes.to(device), *counts)


class _Rows:
    """Tables of one kind of digit while they are made; digits are 0 to twice the middle one."""

    def __init__(self, count: int, units: tuple[float, ...], middle: float) -> None:
        self._units, self._middle = torch.tensor(units), middle
        self.rows = torch.full((GROUP, count), -1, dtype=torch.int32)
        self.sizes = torch.zeros((4, GROUP, count))

    def put(self, place: int, group: int, width: int, weight: float, is_lowest: bool) -> None:
        self.rows[:, place] = GROUP * group + torch.arange(GROUP, dtype=torch.int32)
        self.sizes[0, :, place] = weight / self._units
        self.sizes[3, :, place] = self._middle * self._units
        if is_lowest:
            self.sizes[1, :, place] = torch.tensor(ODD_COSET_SHIFT)
            self.sizes[2, :, place] = torch.tensor(CENTRE_OFFSET) - 2.0 ** (width - 1)


# the values' coder is one for all layers of a cache
@functools.lru_cache(maxsize=4)
def value_rows(quantizer: E8Quantizer) -> tuple[torch.Tensor, torch.Tensor]:
    """What sums of digits and of their parities are multiplied by in the end.

    Returns:
        Rows [R, D], in the order in which the kernel stores sums; and what fields of 0 stand for,
        [D]. float32.
    """
    tables = digit_tables(quantizer.widths, quantizer.basis.device)
    is_row = (tables.rows >= 0).unsqueeze(1)
    rows = quantizer.decoder[tables.rows.clamp(min=0).long()] * is_row
    factors, shifts, offsets, _ = (rows * size.unsqueeze(1) for size in tables.sizes)
    border = GROUP * tables.words
    parts = [factors[:border], shifts[:border].unflatten(0, (GROUP, -1)).sum(dim=0)]
    if tables.num_singles:
        odd = shifts[border:].unflatten(0, (GROUP, -1)).sum(dim=0)
        missing = max(0, LEAST - odd.shape[0])
        parts += [factors[border:], torch.nn.functional.pad(odd, (0, 0, 0, missing))]
    return torch.cat(parts), offsets.sum(dim=0)


@functools.lru_cache(maxsize=64)
def column_table(dim: int, num_pairs: int, pairing: Pairing, device: torch.device) -> torch.Tensor:
    """Columns of the left and the right half, which turn together; then -1. [2 * half], int32."""
    half = max(LEAST, _power_of_two(-(-dim // 2)))
    every = torch.arange(dim, dtype=torch.int32)
    turned, rest = every[: 2 * num_pairs], every[2 * num_pairs :]
    if pairing is Pairing.NEIGHBOURS:
        left, right = turned[::2], turned[1::2]
    else:
        left, right = turned[:num_pairs], turned[num_pairs:]
    middle = -(-rest.numel() // 2)
    table = torch.full((2, half), -1, dtype=torch.int32)
    table[0, : num_pairs + middle] = torch.cat([left, rest[:middle]])
    table[1, : num_pairs + rest.numel() - middle] = torch.cat([right, rest[middle:]])
    return table.flatten().to(device)


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
