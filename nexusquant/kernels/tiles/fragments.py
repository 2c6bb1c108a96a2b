"""What the terms of `terms.py` are multiplied by, as a warp's lanes load it. Imports no CUDA."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch

from nexusquant.kernels.tiles.terms import (
    LANES,
    Term,
    key_places,
    key_terms,
    value_places,
    value_terms,
)
from nexusquant.lattice import E8Quantizer
from nexusquant.lattice.box_code import CENTRE_OFFSET, ODD_COSET_SHIFT
from nexusquant.lattice.e8 import DIM as GROUP
from nexusquant.lattice.log_scale import scale_table


class KeyFragments(NamedTuple):
    """Tables of a layer's vectors.

    Args:
        basis: Rows of terms over the columns in both halves, as a warp's lanes load them.
            [H, half / 8, terms / 32, 32, 16], int8.
        columns: Factor and addend of the left and the right column of each pair.
            [H, half, 4], float32.
        places: See `key_places`.
        sizes: What a vector of scale 1 is multiplied by. [H], float32.
    """

    basis: torch.Tensor
    columns: torch.Tensor
    places: torch.Tensor
    sizes: torch.Tensor


WHOLE = 12_582_912
"""Whole numbers below 2^22 are summed up on top of it: their bits are then those of a float32. No
sum is larger: 128 bytes, of coordinates of 7 bits in half steps, times rows of up to 127."""

_LARGEST = 45_000
"""Two numbers of a vector of scale 1 are no longer than float16 holds, however they are turned."""


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
    rows, offsets, most = (table.to(device) for table in _whole_rows(widths, key_terms(widths)))
    whole = (rows @ spread).to(torch.int8)
    # tile, register, lane t and byte of a term; half, chunk and lane g of a column
    parts = whole.unflatten(1, (-1, 2, LANES, 4)).unflatten(-1, (2, -1, 8))
    parts = parts.permute(0, 6, 1, 7, 3, 5, 2, 4).contiguous()
    units = quantizer.column_units.reshape(-1, quantizer.dim)
    factors = units / units[:, :1]
    factors = factors[:, columns.clamp(min=0).long()] * (columns >= 0)
    bound = ((most @ spread.abs()) * factors).amax(dim=-1, keepdim=True)
    shrink = torch.exp2((bound / _LARGEST).log2().ceil())
    factors /= shrink
    # sums are in half steps; where parity takes one away, `tiles.cu` adds one if it does not
    taken = torch.tensor(ODD_COSET_SHIFT, device=device).clamp(max=0)
    offsets += taken.repeat(offsets.numel() // GROUP)
    addends = (offsets @ spread - WHOLE / 2) * factors
    table = torch.stack([factors / 2, addends], dim=-1).unflatten(1, (2, -1))
    return KeyFragments(
        parts.reshape(*parts.shape[:3], 32, 16),
        table.transpose(1, 2).flatten(2).contiguous(),
        key_places(widths).to(device),
        (units[:, :1] * shrink).flatten().contiguous(),
    )


def _whole_rows(
    widths: tuple[int, ...], terms: Sequence[Term | None]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What terms are of coordinates, in steps.

    Returns:
        Weight of each coordinate in each term [terms, coordinates], what fields of 0 stand for
        and the largest size of each coordinate [coordinates]. float32.
    """
    num_coded = GROUP * sum(width > 0 for width in widths)
    rows = torch.zeros(len(terms), num_coded)
    for row, term in enumerate(terms):
        if term is not None and term.index is not None:
            rows[row, GROUP * term.group + term.index] = 1
        elif term is not None:
            first = GROUP * term.group
            rows[row, first : first + GROUP] = torch.tensor(ODD_COSET_SHIFT)
    halves = torch.tensor([2.0 ** (width - 1) for width in widths if width])
    halves = halves.repeat_interleave(GROUP)
    return rows, torch.tensor(CENTRE_OFFSET).repeat(num_coded // GROUP) - halves, halves


class ValueTables(NamedTuple):
    """What a coder of values leaves to be done once its terms are summed up.

    Args:
        rows: What the sums of terms are multiplied by. [R, D], float32.
        offset: What fields of 0 stand for. [D], float32.
        places: See `value_places`.
    """

    rows: torch.Tensor
    offset: torch.Tensor
    places: torch.Tensor


# a coder's tables live as long as it does: recorded steps go on reading them
_VALUE_TABLES: weakref.WeakKeyDictionary[E8Quantizer, ValueTables] = weakref.WeakKeyDictionary()


def value_tables(quantizer: E8Quantizer) -> ValueTables:
    """Tables for a coder of values, made once."""
    found = _VALUE_TABLES.get(quantizer)
    if found is None:
        found = _VALUE_TABLES[quantizer] = _value_tables(quantizer)
    return found


def _value_tables(quantizer: E8Quantizer) -> ValueTables:
    device, widths = quantizer.basis.device, quantizer.widths
    terms = value_terms(widths)
    rows, offsets, _ = _whole_rows(widths, terms)
    sizes = torch.tensor([1.0 if term is None else term.size for term in terms])
    rows = (rows / sizes.unsqueeze(1)).to(device) @ quantizer.decoder
    offset = offsets.to(device) @ quantizer.decoder
    return ValueTables(rows, offset, value_places(widths).to(device))


@functools.lru_cache(maxsize=16)
def scales_and_exponents(device: torch.device) -> torch.Tensor:
    """The scale of every code, then its binary logarithm. [512], float32."""
    scales = scale_table(device)
    return torch.cat([scales, scales.log2()]).contiguous()


def phases_per_token(frequencies: torch.Tensor) -> torch.Tensor:
    """Radians a token as shares of a turn in 32 bits. int32, to be read without a sign."""
    shares = (frequencies.double() * (2**32 / (2 * math.pi))).round().long() % 2**32
    return torch.where(shares >= 2**31, shares - 2**32, shares).to(torch.int32)
