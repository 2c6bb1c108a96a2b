"""Counts the bytes of the tensors that a cache really holds.

Knows where a layer keeps its tensors. Must not compute a size from a formula, except what the
same tokens would take in 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from nexusquant.cache.hf_compat import CacheLayerMixin
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.layer_mark import LayerMark
from nexusquant.cache.profile import stored_tensors
from nexusquant.cache.usage import CacheUsage

BYTES_UNCOMPRESSED = 2
"""Bytes of one value in the 16-bit cache that sizes are compared with."""


class _Ledger:
    """Bytes by part; memory that several tensors share is counted once, where it is met first."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.bytes_by_part: dict[str, int] = {}

    def add(self, part: str, tensors: Iterable[torch.Tensor | None]) -> None:
        for tensor in tensors:
            if tensor is None or tensor.untyped_storage().data_ptr() in self.seen:
                continue
            storage = tensor.untyped_storage()
            if storage.nbytes():
                self.seen.add(storage.data_ptr())
            self.bytes_by_part[part] = self.bytes_by_part.get(part, 0) + storage.nbytes()


def measure(layers: Sequence[CacheLayerMixin], marks: Sequence) -> CacheUsage:
    """Measure a cache.

    Args:
        layers: Its layers.
        marks: Its live marks (`CacheMark`).
    """
    ledger = _Ledger()
    compressed = [
        layer for layer in layers if isinstance(layer, CompressedLayer) and layer.is_initialized
    ]
    for layer in layers:
        _add_layer(ledger, layer)
    for mark in marks:
        for state in mark.layers:
            ledger.add("marks", _mark_tensors(state))
    sliding = [
        layer for layer in layers if not isinstance(layer, CompressedLayer) and layer.is_initialized
    ]
    seen = sum(layer.sinks[0].shape[0] * layer.num_seen for layer in compressed)
    return CacheUsage(
        stored_bytes=sum(ledger.bytes_by_part.values()),
        uncompressed_bytes=sum(map(_uncompressed_bytes, compressed))
        + sum(_sliding_uncompressed_bytes(layer) for layer in sliding),
        num_seen_tokens=layers[0].get_seq_length(),
        num_stored_pairs=num_stored_pairs(compressed),
        num_seen_pairs=seen,
        num_quantized_pairs=_num_quantized_pairs(compressed),
        bits_per_value=_bits_per_value(compressed),
        bytes_by_part=tuple(ledger.bytes_by_part.items()),
        uncompressed_layers=tuple(
            index for index, layer in enumerate(layers) if getattr(layer, "codec", None) is None
        ),
    )


def num_stored_pairs(layers: Sequence[CompressedLayer]) -> int:
    """Pairs that layers hold, coded or exact; of layers that hold any."""
    exact = sum(
        layer.sinks[0].shape[0] * (layer.sinks[0].shape[1] + layer.num_recent) for layer in layers
    )
    return exact + _num_quantized_pairs(layers)


def _num_quantized_pairs(layers: Sequence[CompressedLayer]) -> int:
    return sum(layer.pages.num_vectors for layer in layers if layer.pages)


def kept_shares(
    layers: Sequence[CompressedLayer], token_ranges: Iterable[tuple[int, int]]
) -> list[float]:
    """Share of pairs still held in each range of tokens, as the mean over layers and heads."""
    shares = torch.ones(layers[0].num_seen)
    paged = [layer for layer in layers if layer.pages is not None and layer.kept.num_tokens]
    if paged:
        sinks = paged[0].sinks[0]
        of_layers = [layer.kept.shares(sinks.shape[0], sinks.device).cpu() for layer in paged]
        first, mean = sinks.shape[1], torch.stack(of_layers).mean(dim=0)
        shares[first : first + mean.shape[0]] = mean
    parts = [shares[start:end] for start, end in token_ranges]
    return [float(part.mean()) if part.numel() else 1.0 for part in parts]


def _add_layer(ledger: _Ledger, layer: CacheLayerMixin) -> None:
    if not isinstance(layer, CompressedLayer):
        window = getattr(layer, "_sliding_window_tensor", None)
        ledger.add("sliding-window layers", (layer.keys, layer.values, window))
        return
    ledger.add("exact", (*layer.sinks, *layer.recent))
    if layer.steps is not None:
        ledger.add("buffers of the answer", layer.steps.tensors)
    ledger.add("queries of the open span", (layer.queries,))
    if layer.pages is not None:
        ledger.add("codes", (*layer.pages.keys, *layer.pages.values))
        ledger.add("tables", (layer.pages.page_table, *(s.bits for s in layer.kept.segments)))
    for codec in (layer.codec, layer.blank_codec):
        ledger.add("tables", stored_tensors(codec))


def _mark_tensors(state: object) -> tuple[torch.Tensor | None, ...]:
    if isinstance(state, LayerMark):
        tables = (*stored_tensors(state.codec), *(s.bits for s in state.kept.segments))
        return (*state.sinks, *state.recent, *tables)
    return (state.keys, state.values)


def _uncompressed_bytes(layer: CompressedLayer) -> int:
    num_kv_heads, _, key_dim = layer.sinks[0].shape
    return num_kv_heads * layer.num_seen * (key_dim + layer.sinks[1].shape[-1]) * BYTES_UNCOMPRESSED


def _sliding_uncompressed_bytes(layer: CacheLayerMixin) -> int:
    return (layer.keys.numel() + layer.values.numel()) * BYTES_UNCOMPRESSED


def _bits_per_value(layers: Sequence[CompressedLayer]) -> float:
    paged = [layer for layer in layers if layer.pages is not None and layer.pages.num_vectors]
    values = sum(
        layer.pages.num_vectors * (layer.sinks[0].shape[-1] + layer.sinks[1].shape[-1])
        for layer in paged
    )
    num_bytes = sum(
        tensor.untyped_storage().nbytes()
        for layer in paged
        for tensor in (*layer.pages.keys, *layer.pages.values)
    )
    return 8 * num_bytes / values if values else 0.0
