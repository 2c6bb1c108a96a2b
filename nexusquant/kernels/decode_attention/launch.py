"""Starts the decode kernel: blocks make parts of the text, and some of them join all parts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch

from nexusquant.kernels.cuda_program import starts_cooperative
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
# of `softmax.cu`: columns of the output in a slice
_SLICE = 16


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
    waits = starts_cooperative(query.device)
    macros = macros_of(query, packed, exact_keys, exact_values, softcap) | {"WAITS": int(waits)}
    num_kv_heads, room, _ = exact_keys.shape
    fitting, num_parts = _fitting(packed, macros, room, num_parts)
    num_found = num_kv_heads * num_parts * fitting.kernel.constant("found_numbers")
    found = query.new_empty(num_found, dtype=torch.float32)
    tables = coder_tables(packed.key_quantizer, num_kv_heads, packed.rotary, packed.pairing)
    values = value_tables(packed.value_quantizer)
    out = query.new_empty(query.shape[0], packed.value_quantizer.dim)
    fitting.kernel.launch(
        *((num_kv_heads, num_parts), 32 * fitting.num_warps, fitting.shared_bytes),
        *(query, packed.key_quantizer.bytes_per_vector - 1),
        *(packed.keys.codes, packed.keys.scales, packed.values.codes, packed.values.scales),
        *(packed.page_table, packed.page_table.stride(0), packed.lengths),
        *(packed.positions, packed.positions.stride(0), packed.first_position or 0),
        *(*tables.fragments, tables.mean, tables.columns, tables.speeds),
        *(scales_and_exponents(query.device), float(tables.growth), values.places),
        *(float(scaling), float(softcap or 1.0), values.rows, values.offset),
        *(exact_keys, exact_values, room, num_exact),
        *(_share(num_parts), found, tables.arrivals, out),
        is_cooperative=waits and num_parts > 1,
    )
    return out


def _fitting(
    packed: PackedView, macros: Mapping[str, int], room: int, asked: int | None
) -> tuple[FittingKernel, int]:
    """The kernel that fits the device, and how many parts it makes of a head."""

    def num_parts(num_warps: int) -> int:
        tokens_at_once = 16 * _NUM_TILES * num_warps
        # several queries are two shares; one block makes all where none waits
        shares_of_slice = macros["WAITS"] * min(macros["GROUPED"], 2)
        return _num_parts(packed, shares_of_slice, tokens_at_once, asked)

    def own_bytes(num_warps: int) -> int:
        """Logits of a block's exact vectors."""
        return 4 * macros["GROUPED"] * -(-room // num_parts(num_warps))

    device = packed.page_table.device
    fitting = fitting_kernel(SOURCES, "attend", macros, WARPS, device, own_bytes)
    return fitting, num_parts(fitting.num_warps)


def macros_of(
    query: torch.Tensor,
    packed: PackedView,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    softcap: float | None,
) -> dict[str, int]:
    """What the program has to know of the tensors, but for WARPS and WAITS."""
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
    }
    shape = CodeShape.of(widths)._asdict()
    values = {f"VALUE_{name.upper()}": number for name, number in shape.items()}
    return shape_macros(packed.key_quantizer, _NUM_TILES) | values | own


def _num_parts(
    packed: PackedView, shares_of_slice: int, tokens_at_once: int, asked: int | None
) -> int:
    num_kv_heads = packed.page_table.shape[0]
    most = _num_processors(packed.page_table.device) // num_kv_heads
    # a block makes its shares of the output one after the other
    num_shares = -(-packed.value_quantizer.dim // _SLICE) * shares_of_slice
    wanted = asked or max(num_shares, -(-packed.positions.shape[1] // tokens_at_once))
    return max(1, min(wanted, most))


def _share(num_parts: int) -> int:
    """A part of 2^32, rounded up: all have as many tiles as each other. All of it is 0."""
    return -(-(2**32) // num_parts) % 2**32


@functools.cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
