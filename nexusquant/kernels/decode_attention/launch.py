"""Starts the decode kernel: blocks make parts of the text, and some of them join all parts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch

from nexusquant.kernels.cuda_program import CudaKernel, starts_cooperative
from nexusquant.kernels.decode_attention.reference import PackedView
from nexusquant.kernels.tiles.coder_tables import (
    TILES,
    TYPES,
    FittingKernel,
    coder_tables,
    fitting_kernel,
    shape_macros,
)
from nexusquant.kernels.tiles.fragments import scales_and_exponents, value_tables
from nexusquant.kernels.tiles.terms import ROW, CodeShape

WARPS = (8, 4)
"""Of a block, which share its basis; fewer where one has too little shared memory for them."""

_HERE = Path(__file__).parent
_NAMES = ("softmax", "exact", "join", "layout", "keys", "values", "parts")
SOURCES = (*TILES, *(_HERE / f"{name}.cu" for name in _NAMES))
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
        num_parts: Blocks for each head, if the GPU runs so many at once; None: what is quickest.

    Returns:
        [H, D_v] in the type of the query.
    """
    query, exact_keys, exact_values = (t.contiguous() for t in (query, exact_keys, exact_values))
    waits, most_parts = starts_cooperative(query.device), _most_parts(packed)
    shapes = (query, packed, exact_keys, exact_values, softcap)
    macros = macros_of(*shapes, waits=waits, most_parts=most_parts)
    num_kv_heads, room, _ = exact_keys.shape
    fitting, num_parts = _fitting(packed, macros, room, num_parts, most_parts)
    num_found = num_kv_heads * num_parts * fitting.kernel.constant("found_numbers")
    table, positions = packed.page_table.contiguous(), packed.positions
    tables = coder_tables(packed.key_quantizer, num_kv_heads, packed.rotary, packed.pairing)
    basis, factors, places, sizes = tables.fragments
    values = value_tables(packed.value_quantizer)
    out = query.new_empty(query.shape[0], packed.value_quantizer.dim)
    fitting.kernel.launch(
        *((num_kv_heads, num_parts), 32 * fitting.num_warps, fitting.shared_bytes),
        *(packed.lengths, table, table.shape[1], packed.key_quantizer.bytes_per_vector - 1),
        *(query, tables.mean, tables.columns, tables.speeds, scales_and_exponents(query.device)),
        *(basis, factors, exact_keys, exact_values, room, positions.stride(0), num_exact, sizes),
        *(places, values.places, packed.keys.codes, packed.keys.scales, packed.values.codes),
        *(packed.values.scales, positions, packed.first_position or 0, tables.growth),
        *(float(scaling), float(softcap or 1.0), values.rows, values.offset),
        *(torch.empty(num_found, device=query.device), tables.arrivals, out),
        is_cooperative=waits and num_parts > 1,
    )
    return out


def _fitting(
    packed: PackedView, macros: Mapping[str, int], room: int, asked: int | None, most_parts: int
) -> tuple[FittingKernel, int]:
    """The kernel that fits the device, and how many parts it makes of a head."""
    num_tokens = packed.positions.shape[1]

    def num_parts(kernel: CudaKernel, num_warps: int) -> int:
        # a block makes its shares of the output one after the other
        num_shares = kernel.constant("num_shares")
        wanted = asked or max(num_shares, -(-num_tokens // (16 * _NUM_TILES * num_warps)))
        return min(wanted, most_parts)

    def own_bytes(kernel: CudaKernel, num_warps: int) -> int:
        """Logits of a block's exact vectors."""
        return 4 * macros["GROUPED"] * -(-room // num_parts(kernel, num_warps))

    device = packed.page_table.device
    fitting = fitting_kernel(SOURCES, "attend", macros, WARPS, device, own_bytes)
    return fitting, num_parts(fitting.kernel, fitting.num_warps)


def macros_of(
    query: torch.Tensor,
    packed: PackedView,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    softcap: float | None,
    *,
    waits: bool,
    most_parts: int,
) -> dict[str, int]:
    """What the program has to know, but for WARPS.

    Args:
        query: As in `attend`, like those that follow.
        packed: Codes of the shape.
        exact_keys: Of the type.
        exact_values: Likewise.
        softcap: If any.
        waits: Whether all blocks run at once, so that they can wait for each other.
        most_parts: Blocks of a head that run at once.
    """
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
        "EXACT_KEY_TYPE": TYPES[exact_keys.dtype],
        "EXACT_VALUE_TYPE": TYPES[exact_values.dtype],
        "WAITS": int(waits),
        # where none waits, one block makes all of the output
        "MOST_PARTS": most_parts if waits else 1,
    }
    shape = CodeShape.of(widths)._asdict()
    values = {f"VALUE_{name.upper()}": number for name, number in shape.items()}
    return shape_macros(packed.key_quantizer, _NUM_TILES) | values | own


def _most_parts(packed: PackedView) -> int:
    """Blocks of a head, if all heads' run at once."""
    return max(1, _num_processors(packed.page_table.device) // packed.page_table.shape[0])


@functools.cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
