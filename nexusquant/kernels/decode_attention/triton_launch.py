"""Starts the decode kernel and joins what its parts give. Imports Triton."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from nexusquant.kernels.decode_attention.digit_tables import (
    LEAST,
    DigitTables,
    column_table,
    digit_tables,
    value_rows,
)
from nexusquant.kernels.decode_attention.reference import PackedSums, PackedView
from nexusquant.kernels.decode_attention.triton_kernel import part_kernel
from nexusquant.lattice import Pairing

_PARTS_PER_PROCESSOR = 2
_NUM_WARPS, _NUM_STAGES = 4, 2


class _Parts(NamedTuple):
    """What the kernel writes: for every head and part, of each query; R rows of digits."""

    maxima: torch.Tensor
    totals: torch.Tensor
    weight_sums: torch.Tensor
    weighted: torch.Tensor


def attend_packed(
    query: torch.Tensor,
    packed: PackedView,
    scaling: float,
    softcap: float | None,
    *,
    num_parts: int | None = None,
) -> PackedSums:
    """Compare one token's queries with everything that is packed.

    Args:
        query: [H, D], any float type.
        packed: At least one vector, and one rotation for all of them.
        scaling: Factor on the products of queries and keys.
        softcap: As in `packed_attention`.
        num_parts: Programs for each head; None: as many as fill the GPU.
    """
    num_kv_heads = packed.page_table.shape[0]
    num_grouped = query.shape[0] // num_kv_heads
    parts = _run(query, packed, scaling, softcap, num_parts or _num_parts(packed))
    maximum = parts.maxima.amax(dim=1)
    shrink = torch.exp2(parts.maxima - maximum.unsqueeze(1))
    total = (parts.totals * shrink).sum(dim=1)
    digits = (parts.weighted * shrink.unsqueeze(2)).sum(dim=1)
    rows, offset = value_rows(packed.value_quantizer)
    weight = (parts.weight_sums * shrink).sum(dim=1)
    weighted = digits.mT @ rows + weight.unsqueeze(-1) * offset
    sums = (maximum * math.log(2), total, weighted)
    return PackedSums(*(of_queries[:, :num_grouped] for of_queries in sums))


def _num_parts(packed: PackedView) -> int:
    num_kv_heads, page_size = packed.page_table.shape[0], packed.keys.scales.shape[1]
    num_pages = -(-packed.positions.shape[1] // page_size)
    wanted = _PARTS_PER_PROCESSOR * _num_processors(packed.page_table.device)
    return max(1, min(num_pages, wanted // num_kv_heads))


@functools.cache
def _num_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _run(
    query: torch.Tensor, packed: PackedView, scaling: float, softcap: float | None, num_parts: int
) -> _Parts:
    device, keys, values = query.device, packed.key_quantizer, packed.value_quantizer
    of_keys, of_values = (digit_tables(coder.widths, device) for coder in (keys, values))
    columns, frequencies, rotary_scaling = _rotation(packed, device)
    num_kv_heads, page_size = packed.page_table.shape[0], packed.keys.scales.shape[1]
    num_grouped = query.shape[0] // num_kv_heads
    num_queries = max(LEAST, 1 << (num_grouped - 1).bit_length())
    parts = _empty_parts(num_kv_heads, num_parts, num_queries, of_values, device)
    num_pages = -(-packed.positions.shape[1] // page_size)
    part_kernel[(num_kv_heads, num_parts)](
        query.contiguous(),
        *(packed.keys.codes, packed.keys.scales, packed.values.codes, packed.values.scales),
        *(packed.page_table, packed.page_table.stride(0), packed.lengths),
        *(packed.positions, packed.positions.stride(0), packed.first_position or 0),
        *(keys.basis, keys.row_units, keys.mean),
        *(of_keys.rows, of_keys.sizes, columns, frequencies),
        *(rotary_scaling, scaling, softcap or 1.0),
        *parts,
        -(-num_pages // num_parts),
        PAGE=page_size,
        DIM=keys.dim,
        HALF=columns.numel() // 2,
        GROUPED=num_grouped,
        QUERIES=num_queries,
        **_layout("KEY", of_keys, keys.bytes_per_vector - 1),
        **_layout("VALUE", of_values, values.bytes_per_vector - 1),
        HAS_MEAN=keys.mean is not None,
        HAS_SOFTCAP=softcap is not None,
        IS_WHOLE=packed.first_position is not None,
        # the interpreter knows no machine instructions
        IS_FAST=device.type == "cuda",
        num_warps=_NUM_WARPS,
        num_stages=_NUM_STAGES,
    )
    return parts


def _layout(name: str, tables: DigitTables, num_bytes: int) -> dict[str, int]:
    return {
        f"{name}_BYTES": num_bytes,
        f"NUM_{name}_WORDS": tables.num_words,
        f"{name}_WORDS": tables.words,
        f"NUM_{name}_SINGLES": tables.num_singles,
        f"{name}_SINGLES": tables.singles,
    }


def _rotation(packed: PackedView, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Columns that turn together, their frequencies, 0 for those that do not, and the factor."""
    dim, rotary = packed.key_quantizer.dim, packed.rotary
    if rotary is None or packed.pairing is Pairing.NONE:
        columns = column_table(dim, 0, Pairing.HALVES, device)
        return columns, torch.zeros(columns.numel() // 2, device=device), 1.0
    frequencies = rotary.segments[0].frequencies.to(device, torch.float32)
    columns = column_table(dim, frequencies.numel(), packed.pairing, device)
    missing = columns.numel() // 2 - frequencies.numel()
    return columns, torch.nn.functional.pad(frequencies, (0, missing)), rotary.scaling


def _empty_parts(
    num_kv_heads: int,
    num_parts: int,
    num_queries: int,
    of_values: DigitTables,
    device: torch.device,
) -> _Parts:
    num_rows = 9 * of_values.words
    if of_values.num_singles:
        num_rows += 8 * of_values.singles + max(of_values.singles, LEAST)
    shape = (num_kv_heads, num_parts, num_queries)
    flat = [torch.empty(shape, device=device) for _ in range(3)]
    return _Parts(*flat, torch.empty((*shape[:2], num_rows, num_queries), device=device))
