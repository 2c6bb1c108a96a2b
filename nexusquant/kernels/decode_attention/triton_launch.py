"""Starts the decode kernels: tables, parts, and what becomes of them. Imports Triton."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import triton

from nexusquant.config import PAGE_SIZE
from nexusquant.kernels.decode_attention.reference import PackedView
from nexusquant.kernels.decode_attention.triton_digits import SINGLE_FACTORS, WORD_FACTORS
from nexusquant.kernels.decode_attention.triton_kernel import split_kernel
from nexusquant.lattice import Pairing
from nexusquant.lattice.box_code import CENTRE_OFFSET, ODD_COSET_SHIFT
from nexusquant.lattice.e8 import DIM as GROUP
from nexusquant.lattice.packing import CodeLayout

_LEAST = 16


class DigitTables(NamedTuple):
    """What the digits of a code with some widths stand for, as tables on a device.

    Args:
        rows: Coordinate of each digit, words first, -1 for padding. [8 (words + singles)], int32.
        factors: What one step of that digit is of the coordinate's. float32, same shape.
        parity_groups: Group whose parity each word and byte tells, or -1. int32.
        offsets: What fields of 0 stand for. [coded coordinates], float32.
        num_words: Words of a vector.
        num_singles: Bytes of single bits.
        words: Words with padding.
        singles: The same for bytes.
    """

    rows: torch.Tensor
    factors: torch.Tensor
    parity_groups: torch.Tensor
    offsets: torch.Tensor
    num_words: int
    num_singles: int
    words: int
    singles: int


@functools.lru_cache(maxsize=1024)
def digit_tables(widths: tuple[int, ...], device: torch.device) -> DigitTables:
    """The tables of a code, constants of its widths."""
    layout = CodeLayout.of(widths)
    words, singles = (
        max(_LEAST, triton.next_power_of_2(len(part))) for part in (layout.words, layout.singles)
    )
    rows = torch.full((words + singles, GROUP), -1, dtype=torch.int32)
    factors = torch.zeros((words + singles, GROUP))
    parity = torch.full((words + singles,), -1, dtype=torch.int32)
    of_group = torch.arange(GROUP, dtype=torch.int32)
    for place, (group, digit) in enumerate(layout.words):
        rows[place] = GROUP * group + of_group
        factors[place] = 4.0**digit / torch.tensor(WORD_FACTORS)
        if digit == 0:
            parity[place] = group
    for place, group in enumerate(layout.singles, start=words):
        rows[place] = GROUP * group + of_group
        factors[place] = 2.0 ** (widths[group] - 1) / torch.tensor(SINGLE_FACTORS)
        if widths[group] == 1:
            parity[place] = group
    offset = torch.tensor(CENTRE_OFFSET)
    offsets = torch.cat([offset - 2.0 ** (width - 1) for width in widths if width])
    tables = (rows.flatten(), factors.flatten(), parity, offsets)
    sizes = (len(layout.words), len(layout.singles), words, singles)
    return DigitTables(*(table.to(device) for table in tables), *sizes)


@functools.lru_cache(maxsize=64)
def column_table(dim: int, num_pairs: int, pairing: Pairing, device: torch.device) -> torch.Tensor:
    """Columns of the left and the right half, which turn together; then -1. [2 * half], int32."""
    half = max(_LEAST, triton.next_power_of_2(-(-dim // 2)))
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


class Parts(NamedTuple):
    """What parts of the text give; H_kv heads, S parts, Q queries a head, R digits of values."""

    maxima: torch.Tensor
    totals: torch.Tensor
    value_maxima: torch.Tensor
    weighted: torch.Tensor
    weight_sums: torch.Tensor


def attend_in_parts(
    query: torch.Tensor,
    packed: PackedView,
    scaling: float,
    softcap: float | None,
    num_parts: int,
    first_position: int | None = None,
    is_fast: bool = True,
) -> Parts:
    """Run the first kernel. Query [H, D]; `first_position` if every token is there from it on."""
    device = query.device
    num_kv_heads = packed.page_table.shape[0]
    grouped = query.shape[0] // num_kv_heads
    keys = digit_tables(packed.key_quantizer.widths, device)
    values = digit_tables(packed.value_quantizer.widths, device)
    dim = packed.key_quantizer.dim
    has_rotary = packed.rotary is not None and packed.pairing is not Pairing.NONE
    frequencies = packed.rotary.segments[0].frequencies if has_rotary else torch.zeros(0)
    pairing = packed.pairing if has_rotary else Pairing.HALVES
    columns = column_table(dim, frequencies.numel(), pairing, device)
    half = columns.numel() // 2
    padded = torch.zeros(half, device=device)
    padded[: frequencies.numel()] = frequencies
    queries = max(_LEAST, triton.next_power_of_2(grouped))
    rows = 9 * (values.words + (values.singles if values.num_singles else 0))
    shape = (num_kv_heads, num_parts, queries)
    parts = Parts(
        *(torch.empty(shape, device=device) for _ in range(3)),
        torch.empty((*shape[:2], rows, queries), device=device),
        torch.empty(shape, device=device),
    )
    num_pages = -(-packed.positions.shape[1] // PAGE_SIZE)
    split_kernel[(num_kv_heads, num_parts)](
        query.contiguous(),
        packed.keys.codes,
        packed.keys.scales,
        packed.values.codes,
        packed.values.scales,
        packed.page_table,
        packed.page_table.stride(0),
        packed.lengths,
        packed.positions,
        packed.positions.stride(0),
        first_position or 0,
        packed.key_quantizer.basis,
        packed.key_quantizer.row_units,
        packed.key_quantizer.mean,
        keys.rows,
        keys.factors,
        keys.parity_groups,
        keys.offsets,
        columns,
        padded,
        packed.rotary.scaling if has_rotary else 1.0,
        scaling,
        softcap or 1.0,
        parts.maxima,
        parts.totals,
        parts.value_maxima,
        parts.weighted,
        parts.weight_sums,
        -(-num_pages // num_parts),
        packed.key_quantizer.num_coded,
        PAGE=PAGE_SIZE,
        DIM=dim,
        HALF=half,
        GROUPED=grouped,
        QUERIES=queries,
        KEY_BYTES=packed.key_quantizer.bytes_per_vector - 1,
        NUM_KEY_WORDS=keys.num_words,
        KEY_WORDS=keys.words,
        NUM_KEY_SINGLES=keys.num_singles,
        KEY_SINGLES=keys.singles,
        VALUE_BYTES=packed.value_quantizer.bytes_per_vector - 1,
        NUM_VALUE_WORDS=values.num_words,
        VALUE_WORDS=values.words,
        NUM_VALUE_SINGLES=values.num_singles,
        VALUE_SINGLES=values.singles,
        HAS_MEAN=packed.key_quantizer.mean is not None,
        HAS_SOFTCAP=softcap is not None,
        IS_WHOLE=first_position is not None,
        IS_FAST=is_fast,
        num_warps=4,
    )
    return parts


def join_parts(parts: Parts, packed: PackedView) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maximum and total [H_kv, Q] and the weighted values [H_kv, Q, D_v], over all parts."""
    quantizer = packed.value_quantizer
    tables = digit_tables(quantizer.widths, parts.maxima.device)
    maximum = parts.maxima.amax(dim=1)
    total = (parts.totals * torch.exp2(parts.maxima - maximum.unsqueeze(1))).sum(dim=1)
    shrink = torch.exp2(parts.value_maxima - maximum.unsqueeze(1))
    digits = (parts.weighted * shrink.unsqueeze(2)).sum(dim=1)
    weight = (parts.weight_sums * shrink).sum(dim=1)
    matrix = _value_rows(quantizer, tables)
    points_offset = tables.offsets @ quantizer.decoder
    output = digits.mT @ matrix + weight.unsqueeze(-1) * points_offset
    return maximum * math.log(2), total, output


def _value_rows(quantizer, tables: DigitTables) -> torch.Tensor:
    decoder = quantizer.decoder
    rows = tables.rows.long()
    of_digits = decoder[rows.clamp(min=0)] * (tables.factors * (rows >= 0)).unsqueeze(1)
    shift = torch.tensor(ODD_COSET_SHIFT, device=decoder.device)
    of_groups = (decoder.unflatten(0, (-1, GROUP)) * shift[:, None]).sum(dim=1)
    groups = tables.parity_groups.long()
    of_parity = of_groups[groups.clamp(min=0)] * (groups >= 0).unsqueeze(1)
    border = tables.words
    parts = [of_digits[: 8 * border], of_parity[:border]]
    if tables.num_singles:
        parts += [of_digits[8 * border :], of_parity[border:]]
    return torch.cat(parts)
