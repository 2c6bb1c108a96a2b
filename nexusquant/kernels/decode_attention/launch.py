"""Starts the decode kernels: parts of the text, then all parts and the exact vectors together."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from nexusquant.kernels.decode_attention.reference import PackedView
from nexusquant.kernels.tiles.coder_tables import (
    TILES,
    TYPES,
    coder_tables,
    fitting_kernel,
    shape_macros,
)
from nexusquant.kernels.tiles.fragments import scales_and_exponents, value_rows
from nexusquant.kernels.tiles.terms import ValueShape

_UNROLL = 2
_HERE = Path(__file__).parent
SOURCES = (TILES, _HERE / "join.cu", _HERE / "parts.cu")


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
    exact_types = (exact_keys.dtype, exact_values.dtype)
    macros = macros_of(query, packed, softcap, exact_types)
    fitting = fitting_kernel(SOURCES, "attend_parts", macros, query.device)
    num_parts = num_parts or _num_parts(packed, fitting.num_warps)
    num_kv_heads, room = packed.page_table.shape[0], exact_keys.shape[1]
    tables = coder_tables(packed.key_quantizer, num_kv_heads, packed.rotary, packed.pairing)
    rows, offset = value_rows(packed.value_quantizer)
    joining = fitting.kernel.constant("join_bytes") + 4 * macros["GROUPED"] * (num_parts + room)
    out = query.new_empty(query.shape[0], packed.value_quantizer.dim)
    fitting.kernel.launch(
        *((num_kv_heads, num_parts), 32 * fitting.num_warps, max(fitting.shared_bytes, joining)),
        query.contiguous(),
        *(packed.keys.codes, packed.keys.scales, packed.values.codes, packed.values.scales),
        *(packed.page_table, packed.page_table.stride(0), packed.lengths),
        *(packed.positions, packed.positions.stride(0), packed.first_position or 0),
        *(*tables.fragments, tables.mean, tables.columns, tables.speeds),
        *(scales_and_exponents(query.device), float(tables.growth)),
        *(float(scaling), float(softcap or 1.0)),
        *_empty_sums(num_kv_heads * num_parts * 8 * macros["N_TILES"], rows.shape[0], out),
        *(tables.num_done, rows, offset),
        *(exact_keys.contiguous(), exact_values.contiguous(), room, num_exact, out),
    )
    return out


def _empty_sums(count: int, num_rows: int, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """For every head, part and query: maximum, total, sum of weights; then sums of digits."""
    sums = like.new_empty(count * (3 + num_rows), dtype=torch.float32)
    return sums.split([count, count, count, count * num_rows])


def macros_of(
    query: torch.Tensor,
    packed: PackedView,
    softcap: float | None,
    exact_types: tuple[torch.dtype, torch.dtype],
) -> dict[str, int]:
    """What the programs have to know of the tensors, but for WARPS."""
    values = ValueShape.of(packed.value_quantizer.widths)
    num_grouped = query.shape[0] // packed.page_table.shape[0]
    sizes = {f"VALUE_{name.upper()}": size for name, size in values._asdict().items()}
    own = {
        "VALUE_BYTES": packed.value_quantizer.bytes_per_vector - 1,
        "VALUE_DIM": packed.value_quantizer.dim,
        "N_TILES": -(-num_grouped // 8),
        "GROUPED": num_grouped,
        "UNROLL": _UNROLL,
        "HAS_MEAN": packed.key_quantizer.mean is not None,
        "HAS_SOFTCAP": softcap is not None,
        "IS_WHOLE": packed.first_position is not None,
        "QUERY_TYPE": TYPES[query.dtype],
        "EXACT_KEY_TYPE": TYPES[exact_types[0]],
        "EXACT_VALUE_TYPE": TYPES[exact_types[1]],
    }
    return shape_macros(packed.key_quantizer) | sizes | own


def _num_parts(packed: PackedView, num_warps: int) -> int:
    num_kv_heads = packed.page_table.shape[0]
    tiles = -(-packed.positions.shape[1] // 32)
    processors = _num_processors(packed.page_table.device)
    return max(1, min(-(-tiles // num_warps), processors // num_kv_heads))


@functools.cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
