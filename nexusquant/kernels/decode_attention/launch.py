"""Starts the decode kernels: parts of the text, then all parts and the exact vectors together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from nexusquant.kernels.cuda_program import CudaKernel, cuda_kernel
from nexusquant.kernels.decode_attention.reference import PackedView
from nexusquant.kernels.tiles.coder_tables import (
    TILES,
    TYPES,
    coder_tables,
    fitting_kernel,
    shape_macros,
)
from nexusquant.kernels.tiles.fragments import scales_and_exponents, value_tables
from nexusquant.kernels.tiles.terms import ROW, CodeShape

WARPS = (8, 4)
"""Of a block, which share its basis; fewer where one has too little shared memory for them."""

_HERE = Path(__file__).parent
SOURCES = (*TILES, _HERE / "softmax.cu", _HERE / "parts.cu")
JOIN_SOURCES = (TILES[0], _HERE / "softmax.cu", _HERE / "join.cu")
_JOIN_THREADS, _JOIN_WIDTH = 512, 32
# sixteens of vectors that a warp takes at once
_NUM_TILES = 2


def attend(
    query: torch.Tensor,
    packed: PackedView,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    *,
    num_exact: torch.Tensor | None = None,
    num_parts: int | None = None,
) -> torch.Tensor:
    """Attend with one token's queries; see `reference.packed_attention`.

    Args:
        query: [H, D], any float type.
        packed: At least one vector, and one rotation for all of them.
        exact_keys: [H_kv, E, D], float.
        exact_values: [H_kv, E, D_v], float.
        scaling: Factor on the products of queries and keys.
        softcap: As in `packed_attention`.
        num_exact: How many of the exact vectors there are, [1], int64, on the device; None: all.
        num_parts: Blocks for each head; None: as many as fill the GPU.

    Returns:
        [H, D_v] in the type of the query.
    """
    query, macros = query.contiguous(), macros_of(query, packed, softcap)
    numbers = (float(scaling), float(softcap or 1.0))
    parts = _attend_parts(query, packed, macros, numbers, num_parts)
    num_kv_heads, room, _ = exact_keys.shape
    values = value_tables(packed.value_quantizer)
    out = query.new_empty(query.shape[0], packed.value_quantizer.dim)
    join = _join_kernel(macros, exact_keys, exact_values)
    join.launch(
        (num_kv_heads, -(-out.shape[1] // _JOIN_WIDTH)),
        _JOIN_THREADS,
        join.constant("join_bytes") + 4 * macros["GROUPED"] * (parts.count + room),
        *(query, *parts.sums, parts.count, values.rows, values.offset),
        *(exact_keys.contiguous(), exact_values.contiguous(), room, num_exact, *numbers, out),
        is_early=True,
    )
    return out


class _Parts(NamedTuple):
    """For every head, part and query: maximum, total, sum of weights; then sums of coordinates."""

    sums: tuple[torch.Tensor, ...]
    count: int


def _attend_parts(
    query: torch.Tensor,
    packed: PackedView,
    macros: Mapping[str, int],
    numbers: tuple[float, float],
    num_parts: int | None,
) -> _Parts:
    fitting = fitting_kernel(SOURCES, "attend_parts", macros, WARPS, query.device)
    num_kv_heads = packed.page_table.shape[0]
    num_parts = num_parts or _num_parts(packed, macros["M_TILES"] * 16 * fitting.num_warps)
    values = value_tables(packed.value_quantizer)
    num_sums, num_rows = num_kv_heads * num_parts * 8 * macros["N_TILES"], values.rows.shape[0]
    sums = query.new_empty(num_sums * (3 + num_rows), dtype=torch.float32)
    parts = sums.split([num_sums, num_sums, num_sums, num_sums * num_rows])
    tables = coder_tables(packed.key_quantizer, num_kv_heads, packed.rotary, packed.pairing)
    fitting.kernel.launch(
        *((num_kv_heads, num_parts), 32 * fitting.num_warps, fitting.shared_bytes),
        *(query, packed.key_quantizer.bytes_per_vector - 1),
        *(packed.keys.codes, packed.keys.scales, packed.values.codes, packed.values.scales),
        *(packed.page_table, packed.page_table.stride(0), packed.lengths),
        *(packed.positions, packed.positions.stride(0), packed.first_position or 0),
        *(*tables.fragments, tables.mean, tables.columns, tables.speeds),
        *(scales_and_exponents(query.device), float(tables.growth), values.places),
        *(*numbers, *parts),
    )
    return _Parts(parts, num_parts)


def macros_of(query: torch.Tensor, packed: PackedView, softcap: float | None) -> dict[str, int]:
    """What the program of the parts has to know of the tensors, but for WARPS."""
    widths = packed.value_quantizer.widths
    num_grouped = query.shape[0] // packed.page_table.shape[0]
    rows = [widths[first : first + ROW] for first in range(0, len(widths), ROW)]
    own = {
        "VALUE_BYTES": packed.value_quantizer.bytes_per_vector - 1,
        # one bit for each row of groups whose bits are not those of the others
        "VALUE_MIXED": sum(
            (len(set(row)) > 1 or len(row) < ROW) << r for r, row in enumerate(rows)
        ),
        "VALUE_DIM": packed.value_quantizer.dim,
        "N_TILES": -(-num_grouped // 8),
        "GROUPED": num_grouped,
        "HAS_MEAN": packed.key_quantizer.mean is not None,
        "HAS_SOFTCAP": softcap is not None,
        "IS_WHOLE": packed.first_position is not None,
        "QUERY_TYPE": TYPES[query.dtype],
    }
    shape = CodeShape.of(widths)._asdict()
    values = {f"VALUE_{name.upper()}": number for name, number in shape.items()}
    return shape_macros(packed.key_quantizer, _NUM_TILES) | values | own


_OF_JOIN = ("DIM", "VALUE_DIM", "VALUE_ROWS", "N_TILES", "GROUPED", "HAS_SOFTCAP")


def join_macros(
    macros: Mapping[str, int], exact_keys: torch.Tensor, exact_values: torch.Tensor
) -> dict[str, int]:
    """What the program of the joining has to know, of what that of the parts knows."""
    return {name: macros[name] for name in (*_OF_JOIN, "QUERY_TYPE")} | {
        "EXACT_KEY_TYPE": TYPES[exact_keys.dtype],
        "EXACT_VALUE_TYPE": TYPES[exact_values.dtype],
    }


def _join_kernel(
    macros: Mapping[str, int], exact_keys: torch.Tensor, exact_values: torch.Tensor
) -> CudaKernel:
    own = join_macros(macros, exact_keys, exact_values)
    return cuda_kernel(JOIN_SOURCES, "join_parts", tuple(own.items()), exact_keys.device)


def _num_parts(packed: PackedView, tokens_at_once: int) -> int:
    num_kv_heads = packed.page_table.shape[0]
    processors = _num_processors(packed.page_table.device)
    return max(1, min(-(-packed.positions.shape[1] // tokens_at_once), processors // num_kv_heads))


@functools.cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
