"""Attention over packed pages in plain torch: the specification of every faster version.

Knows pages, codes and one softmax. Must not know who owns the pages or why a token is in them.

Keys are rebuilt from their codes, rotated to their positions and compared with the queries;
values stay in coded coordinates until after the weighted sum. Pages are decoded a few at a time;
the softmax is carried from block to block (Milakov & Gimelshein, arXiv 1805.02867), so no decoded
copy of the cache ever exists.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from nexusquant.lattice import E8Quantizer, PackedVectors, Pairing, Rotary

CPU_BLOCK_BYTES, GPU_BLOCK_BYTES = 16 * 2**20, 128 * 2**20
"""Bound on the float32 temporaries of one block of tokens: keys, values, logits and weights.

A CPU's cache holds a small block; a GPU wants few launches.
"""


class PackedView(NamedTuple):
    """The packed part of one layer, as tensors.

    Args:
        keys: Codes [P, page_size, key_bytes] and scales [P, page_size], uint8.
        values: The same for values.
        page_table: Pages of each KV head in order. [H_kv, M], int32; -1 after the last.
        lengths: Vectors of each KV head. [H_kv], int64.
        positions: Token index of each vector, in the order of the pages. [H_kv, max length],
            int64; anything past a head's length.
        key_quantizer: What the key codes mean.
        value_quantizer: What the value codes mean; it takes off no mean.
        rotary: What keys are rotated by after decoding, or None.
        pairing: How.
        first_position: Token index of every head's first vector if none is missing after it.
    """

    keys: PackedVectors
    values: PackedVectors
    page_table: torch.Tensor
    lengths: torch.Tensor
    positions: torch.Tensor
    key_quantizer: E8Quantizer
    value_quantizer: E8Quantizer
    rotary: Rotary | None = None
    pairing: Pairing = Pairing.NONE
    first_position: int | None = None


class _RunningSoftmax:
    """A softmax-weighted sum whose terms arrive in blocks. float32, shapes [H_kv, rows, ...]."""

    def __init__(self, num_kv_heads: int, num_rows: int, dim: int, device: torch.device) -> None:
        self.maximum = torch.full((num_kv_heads, num_rows, 1), -1e30, device=device)
        self.total = torch.zeros((num_kv_heads, num_rows, 1), device=device)
        self.weighted = torch.zeros((num_kv_heads, num_rows, dim), device=device)

    def add(
        self, logits: torch.Tensor, values: torch.Tensor, value_scales: torch.Tensor | None = None
    ) -> None:
        maximum = torch.maximum(self.maximum, logits.amax(dim=-1, keepdim=True))
        shrink = torch.exp(self.maximum - maximum)
        weights = torch.exp(logits - maximum)
        self.total = self.total * shrink + weights.sum(dim=-1, keepdim=True)
        if value_scales is not None:
            weights = weights * value_scales
        self.weighted = torch.baddbmm(self.weighted * shrink, weights, values)
        self.maximum = maximum

    def result(self) -> torch.Tensor:
        return self.weighted / self.total


def packed_attention(
    query: torch.Tensor,
    packed: PackedView | None,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    num_exact: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend causally to packed vectors, all of them past, and to exact ones.

    The last `T` exact vectors belong to the queries themselves: query `t` does not see those
    after its own. Query head `h` reads KV head `h // (H / H_kv)`.

    Args:
        query: [H, T, D], any float type.
        packed: Past vectors as codes, or None.
        exact_keys: [H_kv, E, D] with E >= T.
        exact_values: [H_kv, E, D_v].
        scaling: Factor on the products of queries and keys.
        softcap: Squashes logits to (-softcap, softcap) if the model does.
        num_exact: Exact vectors that count, the first ones, as a number on the device: [1], int64.
            Those after them are finite. None: all.

    Returns:
        [H, T, D_v] in the type of the query; computed in float32.
    """
    num_heads, q_len, _ = query.shape
    num_kv_heads, _, value_dim = exact_values.shape
    rows = (query.float() * scaling).reshape(num_kv_heads, -1, query.shape[-1])
    state = _RunningSoftmax(num_kv_heads, rows.shape[1], value_dim, query.device)
    if packed is not None:
        _add_packed(state, rows, packed, softcap)
    _add_exact(state, rows, exact_keys, exact_values, q_len, softcap, num_exact)
    return state.result().reshape(num_heads, q_len, value_dim).to(query.dtype)


def _add_packed(
    state: _RunningSoftmax, rows: torch.Tensor, packed: PackedView, softcap: float | None
) -> None:
    page_size = packed.keys.codes.shape[1]
    pages_per_block = max(1, _block_tokens(rows, packed.page_table.shape[0]) // page_size)
    num_pages = -(-packed.positions.shape[1] // page_size)
    decoder = packed.key_quantizer.decoder
    for first in range(0, num_pages, pages_per_block):
        pages = packed.page_table[:, first : min(first + pages_per_block, num_pages)].long()
        start = first * page_size
        index = torch.arange(start, start + pages.shape[1] * page_size, device=rows.device)
        positions = _positions_at(packed, start, index.shape[0])
        keys = _rebuild_keys(packed, pages, positions, decoder)
        logits = _cap(rows @ keys.mT, softcap)
        logits.masked_fill_((index >= packed.lengths[:, None]).unsqueeze(1), float("-inf"))
        points, scales = packed.value_quantizer.decode_points(
            _gather(packed.values, pages), torch.float32, positions
        )
        state.add(logits, points, scales.unsqueeze(-2))
    state.weighted = state.weighted @ packed.value_quantizer.decoder


def _positions_at(packed: PackedView, start: int, count: int) -> torch.Tensor:
    """Token indices of `count` vectors of every head; 0 past the longest. [H_kv, count]."""
    positions = packed.positions[:, start : start + count]
    return torch.nn.functional.pad(positions, (0, count - positions.shape[1]))


def _rebuild_keys(
    packed: PackedView, pages: torch.Tensor, positions: torch.Tensor, decoder: torch.Tensor
) -> torch.Tensor:
    """Keys in some pages [H_kv, n] of tokens at `positions`, as the model made them."""
    points, scales = packed.key_quantizer.decode_points(
        _gather(packed.keys, pages), torch.float32, positions
    )
    keys = points.mul_(scales.unsqueeze(-1)) @ decoder
    if packed.key_quantizer.mean is not None:
        keys += packed.key_quantizer.mean
    if packed.rotary is None:
        return keys
    return packed.rotary.put_on(keys, positions, packed.pairing)


def _block_tokens(rows: torch.Tensor, num_kv_heads: int) -> int:
    """Tokens whose temporaries stay within the bound of the device."""
    _, num_rows, dim = rows.shape
    bytes_per_token = 4 * num_kv_heads * (4 * dim + 2 * num_rows)
    bound = CPU_BLOCK_BYTES if rows.device.type == "cpu" else GPU_BLOCK_BYTES
    return max(64, bound // bytes_per_token)


def _gather(vectors: PackedVectors, pages: torch.Tensor) -> PackedVectors:
    codes = vectors.codes[pages].flatten(1, 2)
    return PackedVectors(codes, vectors.scales[pages].flatten(1, 2))


def _add_exact(
    state: _RunningSoftmax,
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    q_len: int,
    softcap: float | None,
    num_exact: torch.Tensor | None,
) -> None:
    num_held = keys.shape[1]
    # with a number on the device, any column may have to be hidden
    num_seen_by_all = 0 if num_exact is not None else num_held - q_len + 1
    num_exact = num_held if num_exact is None else num_exact
    # rows are query heads times queries; the last column that row r may see
    last_seen = torch.arange(q_len, device=rows.device).repeat(rows.shape[1] // q_len)
    last_seen = last_seen + (num_exact - q_len)
    block_tokens = _block_tokens(rows, keys.shape[0])
    for first in range(0, num_held, block_tokens):
        block = slice(first, first + block_tokens)
        logits = _cap(rows @ keys[:, block].float().transpose(-1, -2), softcap)
        if first + logits.shape[-1] > num_seen_by_all:
            index = torch.arange(first, first + logits.shape[-1], device=rows.device)
            logits.masked_fill_(index > last_seen[:, None], float("-inf"))
        state.add(logits, values[:, block].float())


def _cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)
