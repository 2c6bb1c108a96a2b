"""How many bytes a cache will hold, told from a model's config: no model and no text are needed.

Knows what each part of a layer is made of, and asks the parts themselves for their sizes. Tests
hold it to what `measure` finds in real caches. Must not know devices or what else is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig

from nexusquant.cache import hf_compat
from nexusquant.cache.codec import LayerCodec
from nexusquant.cache.layer_choice import supported_layers
from nexusquant.cache.measure import BYTES_UNCOMPRESSED
from nexusquant.cache.pages import pages_for
from nexusquant.cache.profile import stored_tensors
from nexusquant.config import PAGE_SIZE, CompressionConfig, QuantConfig
from nexusquant.kernels.decode_attention.reference import CPU_BLOCK_BYTES, GPU_BLOCK_BYTES
from nexusquant.lattice import E8Quantizer, Pairing, Rotary, RotarySegment, share_bits

BLOCK_BYTES = {"cpu": CPU_BLOCK_BYTES, "cuda": GPU_BLOCK_BYTES}
"""Bound on what attention decodes of a cache at a time, by kind of device."""

# tensors without memory: only their sizes are asked for
_NOWHERE = torch.device("meta")
_TABLE_ENTRY_BYTES = 4
# a sliding-window layer of transformers holds its window's size as a tensor
_WINDOW_TENSOR_BYTES = 8


@dataclass(frozen=True)
class LayerShape:
    """What one layer caches.

    Args:
        num_heads: Heads of queries.
        num_kv_heads: Heads of keys and values.
        head_dim: Values of one key, and of one value.
        sliding_window: Newest tokens that it sees; None: all of them.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int | None = None

    @property
    def can_be_coded(self) -> bool:
        """Whether its vectors can go into pages."""
        return self.sliding_window is None and self.head_dim % 8 == 0

    @property
    def values_per_token(self) -> int:
        """Numbers in the keys and values of one token."""
        return 2 * self.num_kv_heads * self.head_dim


class StoredParts(NamedTuple):
    """Bytes by part, as `CacheUsage.bytes_by_part` names them."""

    codes: int
    exact: int
    tables: int
    sliding: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def layer_shapes(config: PreTrainedConfig) -> tuple[LayerShape, ...]:
    """What each layer of a model of this config caches.

    Raises:
        UnsupportedModelError: A compressed cache cannot stand in for one of them.
    """
    layers = supported_layers(config)
    heads, dims = hf_compat.head_counts(config), hf_compat.head_dims(config)
    return tuple(
        LayerShape(*counts, dim, getattr(layer, "sliding_window", None))
        for layer, counts, dim in zip(layers, heads, dims, strict=True)
    )


@dataclass(frozen=True)
class StoredSize:
    """Bytes of the cache of one text, by the tokens in it.

    Args:
        shapes: The model's layers.
        compression: What is compressed.
        value_bytes: Bytes of a key's number as the model makes it.
    """

    shapes: tuple[LayerShape, ...]
    compression: CompressionConfig
    value_bytes: int

    def after(self, num_tokens: int) -> StoredParts:
        """Bytes once a text of `num_tokens` was read, scored, thinned out and coded.

        How many pairs each head keeps is known only then: page slack is taken as half a page
        a head, which is its mean.
        """
        config = self.compression
        num_exact = min(num_tokens, config.num_sink_tokens + config.recent_window)
        num_decided = num_tokens - num_exact
        eviction = config.eviction
        keep_ratio = 1.0
        if eviction is not None and num_decided >= eviction.min_span:
            keep_ratio = eviction.keep_ratio
        narrow = self._plus(num_decided, num_exact, BYTES_UNCOMPRESSED, keep_ratio)
        return narrow._replace(exact=narrow.exact + self._uncoded_bytes(num_tokens))

    def while_reading(self, num_coded: int, num_exact: int, num_new: int) -> StoredParts:
        """Bytes in the middle of a text, with a profile of the model.

        Args:
            num_coded: Tokens that are in pages, or sinks.
            num_exact: Tokens after them, in full precision.
            num_new: Those of them that were read last: windows hold them whole for the moment.
        """
        sinks = min(num_coded, self.compression.num_sink_tokens)
        parts = self._plus(num_coded - sinks, num_exact, self.value_bytes, 1.0)
        sink_bytes = sinks * BYTES_UNCOMPRESSED * sum(s.values_per_token for s in self._coded)
        num_tokens = num_coded + num_exact
        exact = parts.exact + sink_bytes + self._uncoded_bytes(num_tokens)
        return parts._replace(
            exact=exact + self._query_bytes(num_tokens),
            sliding=self._window_bytes(num_tokens, num_new),
        )

    def uncompressed(self, num_tokens: int) -> int:
        """Bytes of the same text in a 16-bit cache."""
        return BYTES_UNCOMPRESSED * sum(
            shape.values_per_token * _num_held(shape, num_tokens) for shape in self.shapes
        )

    @cached_property
    def _coded(self) -> tuple[LayerShape, ...]:
        if self.compression.is_off:
            return ()
        return tuple(shape for shape in self.shapes if shape.can_be_coded)

    @cached_property
    def _codecs(self) -> dict[LayerShape, LayerCodec]:
        quant = self.compression.quant
        dims = {shape.head_dim for shape in self._coded}
        values = {dim: _values_coder(dim, quant) for dim in dims}
        largest = max(dims, default=0)
        rotary = Rotary([RotarySegment(0, torch.empty(largest // 2, device=_NOWHERE))])
        return {
            shape: LayerCodec(
                values[shape.head_dim], rotary, Pairing.HALVES, _keys_coder(shape, quant), 0.0
            )
            for shape in set(self._coded)
        }

    def _plus(
        self, num_coded: int, num_exact: int, exact_bytes: int, keep_ratio: float
    ) -> StoredParts:
        """Parts for tokens in pages and exact ones of the layers with pages, and the windows."""
        num_tokens = num_coded + num_exact
        codes = tables = exact = 0
        for shape in self._coded:
            codec = self._codecs[shape]
            pages = _pages_of_head(num_coded, keep_ratio)
            vector_bytes = codec.keys.bytes_per_vector + codec.values.bytes_per_vector
            codes += round(shape.num_kv_heads * pages * PAGE_SIZE * vector_bytes)
            tables += shape.num_kv_heads * round(pages + 0.5 * (keep_ratio < 1))
            exact += shape.values_per_token * num_exact * exact_bytes
        tables *= _TABLE_ENTRY_BYTES
        if keep_ratio < 1:
            tables += sum(shape.num_kv_heads * -(-num_coded // 8) for shape in self._coded)
        tables += self._coder_bytes if num_tokens else 0
        return StoredParts(codes, exact, tables, self._window_bytes(num_tokens))

    @cached_property
    def _coder_bytes(self) -> int:
        # a coder of keys belongs to one layer; what layers share is counted once
        own = [t for s in self._coded for t in _key_tensors(self._codecs[s])]
        shared = {id(t): t for codec in self._codecs.values() for t in stored_tensors(codec)}
        keys = {id(t) for t in own}
        return _num_bytes(own) + _num_bytes(t for i, t in shared.items() if i not in keys)

    def _uncoded_bytes(self, num_tokens: int) -> int:
        coded = set(self._coded)
        shapes = [s for s in self.shapes if s.sliding_window is None and s not in coded]
        return num_tokens * self.value_bytes * sum(s.values_per_token for s in shapes)

    def _query_bytes(self, num_tokens: int) -> int:
        """The newest queries, which scorers look at."""
        eviction = self.compression.eviction
        num_queries = min(num_tokens, eviction.observation_window if eviction else 0)
        return num_queries * self.value_bytes * sum(s.num_heads * s.head_dim for s in self._coded)

    def _window_bytes(self, num_tokens: int, num_new: int = 0) -> int:
        windows = [s for s in self.shapes if s.sliding_window is not None]
        values = sum(s.values_per_token * _num_held(s, num_tokens, num_new) for s in windows)
        return values * self.value_bytes + len(windows) * _WINDOW_TENSOR_BYTES


def _num_held(shape: LayerShape, num_tokens: int, num_new: int = 0) -> int:
    # a window of n holds n - 1 tokens: the next one sees itself too
    window = shape.sliding_window
    return num_tokens if window is None else min(num_tokens, window - 1 + num_new)


def _pages_of_head(num_coded: int, keep_ratio: float) -> float:
    if keep_ratio == 1:
        return pages_for(num_coded)
    return num_coded * keep_ratio / PAGE_SIZE + 0.5


def _values_coder(dim: int, quant: QuantConfig) -> E8Quantizer:
    return E8Quantizer.create(dim, quant.value_bits, quant.rotation_seed, _NOWHERE)


def _keys_coder(shape: LayerShape, quant: QuantConfig) -> E8Quantizer:
    """The coder that keys have in the mean; a profile moves bits from layer to layer."""
    heads, dim = shape.num_kv_heads, shape.head_dim
    widths = share_bits([torch.ones(heads, dim // 8)], quant.key_bits)[0]
    rows = torch.empty((heads, dim, dim), device=_NOWHERE)
    gains = torch.empty((heads, dim // 8), device=_NOWHERE)
    return E8Quantizer.of_rows(widths, rows, gains, torch.empty((heads, 1, dim), device=_NOWHERE))


def _key_tensors(codec: LayerCodec) -> Sequence[torch.Tensor]:
    coder = codec.keys
    return (coder.basis, coder.row_units, coder.gains, coder.mean)


def _num_bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)
