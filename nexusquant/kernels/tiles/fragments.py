"""What the terms of `terms.py` are multiplied by, as a warp's lanes load it. Imports no CUDA."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from nexusquant.kernels.tiles.terms import (
    LANES,
    PARITY_HIGH,
    Digit,
    KeyShape,
    ValueShape,
    digit_units,
    key_slots,
    value_terms,
)
from nexusquant.lattice import E8Quantizer
from nexusquant.lattice.box_code import CENTRE_OFFSET, ODD_COSET_SHIFT
from nexusquant.lattice.e8 import DIM as GROUP
from nexusquant.lattice.log_scale import scale_table
from nexusquant.lattice.packing import CodeLayout


class KeyFragments(NamedTuple):
    """Tables of a layer's vectors.

    Args:
        basis: Rows of digits over the columns in both halves, as a warp's lanes load them.
            [H, half / 8, slots / 2, 32, 16], int8.
        columns: Factor and addend of the left and the right column of each pair.
            [H, half, 4], float32.
        units: See `digit_units`.
        sizes: What a vector of scale 1 is multiplied by. [H], float32.
    """

    basis: torch.Tensor
    columns: torch.Tensor
    units: torch.Tensor
    sizes: torch.Tensor


WHOLE = 12_582_912
"""Whole numbers are summed up on top of it: their bits are then those of a float32."""

_LARGEST = 60_000
"""A vector of scale 1 is made no larger than float16 holds."""


def key_fragments(quantizer: E8Quantizer, columns: torch.Tensor) -> KeyFragments:
    """Tables for a coder.

    Args:
        quantizer: One basis for each head, or for all.
        columns: Of the left half, then of the right one; -1: none. [2 * half].
    """
    device, widths = quantizer.basis.device, quantizer.widths
    basis = quantizer.basis[..., : quantizer.num_coded, :].float()
    basis = basis.unsqueeze(0) if basis.dim() == 2 else basis
    spread = basis[..., columns.clamp(min=0).long()] * (columns >= 0)
    rows, offsets, most = (table.to(device) for table in _whole_rows(widths))
    slots = _in_bytes(rows @ spread, widths).to(torch.int8)
    # tile, slot, lane t and byte of a term; half, chunk and lane g of a column
    parts = slots.unflatten(1, (-1, 2, LANES, 4)).unflatten(-1, (2, -1, 8))
    parts = parts.permute(0, 6, 1, 7, 3, 5, 2, 4).contiguous()
    units = quantizer.column_units.reshape(-1, quantizer.dim)
    factors = units / units[:, :1]
    factors = factors[:, columns.clamp(min=0).long()] * (columns >= 0)
    bound = ((most @ spread.abs()) * factors).amax(dim=-1, keepdim=True)
    shrink = torch.exp2((bound / _LARGEST).log2().ceil())
    factors /= shrink
    addends = (offsets @ spread - WHOLE) * factors
    table = torch.stack([factors, addends], dim=-1).unflatten(1, (2, -1))
    return KeyFragments(
        parts.reshape(*parts.shape[:3], 32, 16),
        table.transpose(1, 2).flatten(2).contiguous(),
        digit_units(widths).to(device),
        (units[:, :1] * shrink).flatten().contiguous(),
    )


def _in_bytes(rows: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
    """Rows [..., terms, columns]; those of parities as what is left over and as sixteens."""
    sizes = [
        0 if term is None or term.index is not None else term.size
        for slot in key_slots(KeyShape.of(widths))
        for term in slot
    ]
    of_term = torch.tensor(sizes, device=rows.device).unsqueeze(-1)
    sixteens = (rows / PARITY_HIGH).round()
    rows = torch.where(of_term == 1, rows - PARITY_HIGH * sixteens, rows)
    return torch.where(of_term == PARITY_HIGH, sixteens, rows)


def _whole_rows(widths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What terms are of coordinates, in steps.

    Returns:
        Weight of each coordinate in each term [terms, coordinates], what fields of 0 stand for
        and the largest size of each coordinate [coordinates]. float32.
    """
    layout = CodeLayout.of(widths)
    num_coded = GROUP * sum(width > 0 for width in widths)
    terms = [term for slot in key_slots(KeyShape.of(widths)) for term in slot]
    rows = torch.zeros(len(terms), num_coded)
    for row, term in enumerate(terms):
        places = layout.words if term is not None and term.is_word else layout.singles
        if term is None or term.place >= len(places):
            continue
        group, digit = layout.words[term.place] if term.is_word else (places[term.place], None)
        first = GROUP * group
        if term.index is not None:
            rows[row, first + term.index] = 1
        elif digit == 0 or (digit is None and widths[group] == 1):
            rows[row, first : first + GROUP] = torch.tensor(ODD_COSET_SHIFT)
    halves = torch.tensor([2.0 ** (width - 1) for width in widths if width])
    halves = halves.repeat_interleave(GROUP)
    return rows, torch.tensor(CENTRE_OFFSET).repeat(num_coded // GROUP) - halves, halves


def _value_factors(widths: tuple[int, ...], terms: list[Digit | None]) -> torch.Tensor:
    """Weight of each coordinate in each term, in steps. [terms, coordinates], float32."""
    layout = CodeLayout.of(widths)
    factors = torch.zeros(len(terms), GROUP * sum(width > 0 for width in widths))
    for row, term in enumerate(terms):
        places = layout.words if term is not None and term.is_word else layout.singles
        if term is None or term.place >= len(places):
            continue
        group, digit = layout.words[term.place] if term.is_word else (places[term.place], None)
        first = GROUP * group
        if term.index is None:
            if digit == 0 or (digit is None and widths[group] == 1):
                factors[row, first : first + GROUP] = torch.tensor(ODD_COSET_SHIFT)
            continue
        unit, weight = 2.0**term.index, 2.0 ** (widths[group] - 1)
        if digit is not None:
            # the upper four digits of a word are moved down
            unit, weight = 4.0 ** (term.index % 4), 4.0**digit
        factors[row, first + term.index] = weight / unit
    return factors


# the values' coder is one for all layers of a cache
@functools.lru_cache(maxsize=4)
def value_rows(quantizer: E8Quantizer) -> tuple[torch.Tensor, torch.Tensor]:
    """What sums of digits are multiplied by in the end.

    Returns:
        Rows [R, D]; and what fields of 0 stand for, [D]. float32.
    """
    device, widths = quantizer.basis.device, quantizer.widths
    factors = _value_factors(widths, value_terms(ValueShape.of(widths)))
    _, offsets, _ = _whole_rows(widths)
    return factors.to(device) @ quantizer.decoder, offsets.to(device) @ quantizer.decoder


@functools.lru_cache(maxsize=16)
def scales_and_exponents(device: torch.device) -> torch.Tensor:
    """The scale of every code, then its binary logarithm. [512], float32."""
    scales = scale_table(device)
    return torch.cat([scales, scales.log2()]).contiguous()


def phases_per_token(frequencies: torch.Tensor) -> torch.Tensor:
    """Radians a token as shares of a turn in 32 bits. int32, to be read without a sign."""
    shares = (frequencies.double() * (2**32 / (2 * math.pi))).round().long() % 2**32
    return torch.where(shares >= 2**31, shares - 2**32, shares).to(torch.int32)
