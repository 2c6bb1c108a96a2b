"""Attention of a prompt's queries: packed vectors are rebuilt a stretch at a time, and forgotten.

Every stretch gives a softmax of its own, which flash attention leaves with its log-sum-exp; those
are put together. So there is never a copy of all packed vectors, whatever the length of the text.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from nexusquant.kernels.decode_attention.reference import PackedView
from nexusquant.kernels.prefill_attention import WORKSPACE_BYTES
from nexusquant.kernels.tiles.coder_tables import (
    TILES,
    TYPES,
    coder_tables,
    fitting_kernel,
    shape_macros,
)
from nexusquant.kernels.tiles.fragments import scales_and_exponents
from nexusquant.lattice import E8Quantizer, PackedVectors, Pairing, Rotary

SOURCES = (*TILES, Path(__file__).parent / "rebuild.cu")
WARPS = (8, 4)
"""Of a block, which share its basis; fewer where one has too little shared memory for them."""

_Sums = tuple[torch.Tensor, torch.Tensor]


def attend(
    query: torch.Tensor,
    packed: PackedView,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Attend causally; see `decode_attention.reference.packed_attention`.

    Args:
        query: [H, T, D], 16-bit.
        packed: Past vectors, with one rotation for all of them.
        exact_keys: [H_kv, E, D] with E >= T, of the query's type.
        exact_values: [H_kv, E, D], likewise.
        scaling: Factor on the products of queries and keys.

    Returns:
        [H, T, D].
    """
    num_heads, num_new, dim = query.shape
    total = _sums_of_exact(query, exact_keys, exact_values, scaling)
    _add_packed(total, query, packed, scaling)
    out = total[0].unflatten(0, (exact_keys.shape[0], num_new)).transpose(1, 2)
    return out.to(query.dtype).reshape(num_heads, num_new, dim)


def _sums_of_exact(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
) -> _Sums:
    """Rows are [KV head, query]: every KV head is a text of its own for what is packed."""
    num_past = keys.shape[1] - query.shape[1]
    sums = _attend_exactly(query, keys[:, num_past:], values[:, num_past:], scaling, True)
    if num_past:
        _add(sums, _attend_exactly(query, keys[:, :num_past], values[:, :num_past], scaling, False))
    rows = [of_heads.unflatten(0, (keys.shape[0], -1)).transpose(1, 2) for of_heads in sums]
    return rows[0].flatten(0, 1).contiguous(), rows[1].flatten(0, 1).contiguous()


def _attend_exactly(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, is_causal: bool
) -> _Sums:
    given = (query.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0))
    out, log_sums, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        *given, is_causal=is_causal, scale=scaling
    )
    return out[0].float(), log_sums[0].unsqueeze(-1)


def _add_packed(total: _Sums, query: torch.Tensor, packed: PackedView, scaling: float) -> None:
    """Add what the queries see of the packed vectors, a stretch of every head at a time."""
    num_kv_heads, num_new = packed.page_table.shape[0], query.shape[1]
    num_grouped = query.shape[0] // num_kv_heads
    rows = query.unflatten(0, (num_kv_heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()
    every = torch.arange(num_kv_heads + 1, dtype=torch.int32, device=query.device) * num_new
    stretches = _stretches(query, packed)
    first = torch.arange(len(stretches), device=query.device) * len(stretches[0])
    counts = (packed.lengths - first.unsqueeze(1)).clamp_(0, len(stretches[0]))
    starts = torch.nn.functional.pad(counts.cumsum(1), (1, 0)).to(torch.int32)
    is_empty = (counts == 0).repeat_interleave(num_new, dim=1).unsqueeze(-1)
    for index, stretch in enumerate(stretches):
        rebuilt = [
            rebuild(packed, vectors, coder, rotary, stretch, starts[index], query.dtype)
            .unsqueeze(1)
            .expand(-1, num_grouped, -1)
            for vectors, coder, rotary in (
                (packed.keys, packed.key_quantizer, packed.rotary),
                (packed.values, packed.value_quantizer, None),
            )
        ]
        out, log_sums = varlen_attn(
            *(rows, *rebuilt, every, starts[index], num_new, len(stretch)),
            return_aux=AuxRequest(lse=True),
            scale=scaling,
        )
        # the next stretch is rebuilt where this one was
        del rebuilt
        log_sums = log_sums.T.masked_fill(is_empty[index], float("-inf"))
        _add(total, (out, log_sums.unsqueeze(-1)))


def _stretches(query: torch.Tensor, packed: PackedView) -> list[range]:
    num_kv_heads, page_size = packed.page_table.shape[0], packed.keys.scales.shape[1]
    bytes_per_token = 2 * num_kv_heads * query.shape[-1] * query.element_size()
    size = max(1, WORKSPACE_BYTES // bytes_per_token // page_size) * page_size
    longest = packed.positions.shape[1]
    return [range(start, min(start + size, longest)) for start in range(0, longest, size)]


def _add(total: _Sums, other: _Sums) -> None:
    """One softmax over both. Outputs [..., D] and log-sum-exps [..., 1]."""
    joined = torch.logaddexp(total[1], other[1])
    total[0].mul_((total[1] - joined).exp_()).addcmul_(other[0], (other[1] - joined).exp_())
    total[1].copy_(joined)


def rebuild(
    packed: PackedView,
    vectors: PackedVectors,
    quantizer: E8Quantizer,
    rotary: Rotary | None,
    stretch: range,
    starts: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Vectors of a stretch of every head, one head after the other.

    Args:
        packed: Where they are.
        vectors: Its keys or its values.
        quantizer: What their codes mean.
        rotary: What turns them afterwards, or None.
        stretch: Indices in each head; the first one begins a page.
        starts: First row of each head. [H_kv + 1], int32.
        dtype: float16 or bfloat16.

    Returns:
        [H_kv * len(stretch), D]; rows past the last head's are not written.
    """
    num_kv_heads, device = packed.page_table.shape[0], vectors.codes.device
    pairing = Pairing.NONE if rotary is None else packed.pairing
    tables = coder_tables(quantizer, num_kv_heads, rotary, pairing)
    macros = macros_of(packed, quantizer, pairing is not Pairing.NONE, dtype)
    kernel, num_warps, shared_bytes = fitting_kernel(
        SOURCES, "rebuild_vectors", macros, WARPS, device
    )
    out = torch.empty(num_kv_heads * len(stretch), quantizer.dim, dtype=dtype, device=device)
    num_blocks = -(-len(stretch) // (16 * macros["M_TILES"] * num_warps))
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    kernel.launch(
        (num_kv_heads, min(num_blocks, max(1, processors // num_kv_heads))),
        *(32 * num_warps, shared_bytes, quantizer.bytes_per_vector - 1),
        *(vectors.codes, vectors.scales),
        *(packed.page_table, packed.page_table.stride(0), packed.lengths),
        *(packed.positions, packed.positions.stride(0), packed.first_position or 0),
        *(*tables.fragments, tables.mean, tables.columns, tables.speeds),
        *(scales_and_exponents(device), float(tables.growth)),
        *(stretch.start, len(stretch), starts, out),
    )
    return out


def macros_of(
    packed: PackedView, quantizer: E8Quantizer, has_turn: bool, dtype: torch.dtype
) -> dict[str, int]:
    """What `rebuild.cu` has to know of the tensors, but for WARPS."""
    # more registers than there are would hold two tiles of longer vectors
    return shape_macros(quantizer, 2 if quantizer.dim <= 128 else 1) | {
        "HAS_MEAN": quantizer.mean is not None,
        "HAS_TURN": has_turn,
        "IS_WHOLE": packed.first_position is not None,
        "OUT_TYPE": TYPES[dtype],
    }
