"""How many bytes a cache will hold, told from a model's config: no model and no text are needed.

Knows what each part of a layer is made of, and asks the parts themselves for their sizes. Tests
hold it to what `measure` finds in real caches. Must not know devices or what else is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig

from nexusquant.cache import hf_compat
from nexusquant.cache.codec import LayerCodec
from nexusquant.cache.layer_choice import supported_layers
from nexusquant.cache.measure import BYTES_UNCOMPRESSED
from nexusquant.cache.pages import ROOM_MARGIN, pages_for
from nexusquant.cache.profile import stored_tensors
from nexusquant.config import PAGE_SIZE, CompressionConfig, QuantConfig
from nexusquant.eviction import block_shares
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
        keep_ratio = self._keep_ratio(num_decided)
        narrow = self._plus(num_decided, num_exact, BYTES_UNCOMPRESSED, keep_ratio)
        return narrow._replace(exact=narrow.exact + num_tokens * self._uncoded_bytes)

    def while_reading(self, num_coded: int, num_exact: int, num_new: int) -> StoredParts:
        """Bytes when a text was read, before its last block is decided on; with a profile.

        Args:
            num_coded: Tokens of earlier blocks, which were decided on and are in pages, or sinks.
            num_exact: Tokens after them, in full precision: the last block.
            num_new: Those of them that were read last: windows hold them whole for the moment.
        """
        sinks = min(num_coded, self.compression.num_sink_tokens)
        keep_ratio = self._keep_ratio_before_last(num_coded - sinks, num_exact)
        parts = self._plus(num_coded - sinks, num_exact, self.value_bytes, keep_ratio)
        sink_bytes = sinks * BYTES_UNCOMPRESSED * self._num_coded_values
        num_tokens = num_coded + num_exact
        exact = parts.exact + sink_bytes + num_tokens * self._uncoded_bytes
        return parts._replace(
            codes=self._code_bytes_in_room(num_tokens) if num_coded else 0,
            exact=exact + self._query_bytes(num_tokens),
            sliding=self._window_bytes(num_tokens, num_new),
        )

    def uncompressed(self, num_tokens: int) -> int:
        """Bytes of the same text in a 16-bit cache."""
        return BYTES_UNCOMPRESSED * sum(
            shape.values_per_token * _num_held(shape, num_tokens) for shape in self.shapes
        )

    @property
    def key_coders(self) -> tuple[tuple[LayerShape, E8Quantizer], ...]:
        """The layers that have pages and their coders of keys, with the mean width."""
        return tuple((shape, self._codecs[shape].keys) for shape in self._coded)

    @property
    def exact_bytes_per_token(self) -> int:
        """One token in full precision, in the layers that have pages."""
        return self.value_bytes * self._num_coded_values

    def _code_bytes_in_room(self, num_tokens: int) -> int:
        """Pages after a text's first block: for the whole text, and a part of one in every head."""
        num_exact = self.compression.num_sink_tokens + self.compression.recent_window
        num_decided = num_tokens - num_exact
        keep_ratio = self._keep_ratio(num_decided)
        margin = ROOM_MARGIN if keep_ratio < 1 else 1.0
        return round((margin * keep_ratio * num_decided + PAGE_SIZE) * self._vector_bytes)

    def _keep_ratio(self, num_decided: int) -> float:
        eviction = self.compression.eviction
        return eviction.keep_ratio if eviction and num_decided >= eviction.min_span else 1.0

    def _keep_ratio_before_last(self, num_coded: int, num_exact: int) -> float:
        """Of all blocks but the last, which has the newest tokens."""
        keep_ratio, eviction = self._keep_ratio(num_coded), self.compression.eviction
        if keep_ratio == 1:
            return 1.0
        of_last, _ = block_shares(keep_ratio, eviction.newest_share, num_coded, num_exact, 0)
        return (keep_ratio * (num_coded + num_exact) - of_last * num_exact) / num_coded

    def _plus(
        self, num_coded: int, num_exact: int, exact_bytes: int, keep_ratio: float
    ) -> StoredParts:
        """Parts for tokens in pages and exact ones of the layers with pages, and the windows."""
        num_tokens = num_coded + num_exact
        pages = _pages_of_head(num_coded, keep_ratio)
        codes = round(pages * PAGE_SIZE * self._vector_bytes)
        # the longest head decides how wide the table is
        width = round(pages + 0.5 * (keep_ratio < 1))
        tables = self._num_heads * width * _TABLE_ENTRY_BYTES
        tables += self._num_heads * -(-num_coded // 8) * (keep_ratio < 1)
        tables += self._coder_bytes * (num_tokens > 0)
        exact = num_exact * exact_bytes * self._num_coded_values
        return StoredParts(codes, exact, tables, self._window_bytes(num_tokens))

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

    @cached_property
    def _vector_bytes(self) -> int:
        """Packed keys and values of one token in all heads of all layers."""
        codecs = [(shape, self._codecs[shape]) for shape in self._coded]
        return sum(
            shape.num_kv_heads * (codec.keys.bytes_per_vector + codec.values.bytes_per_vector)
            for shape, codec in codecs
        )

    @cached_property
    def _coder_bytes(self) -> int:
        # a coder of keys belongs to one layer; what layers share is counted once
        own = [t for s in self._coded for t in _key_tensors(self._codecs[s])]
        shared = {id(t): t for codec in self._codecs.values() for t in stored_tensors(codec)}
        keys = {id(t) for t in own}
        return _num_bytes(own) + _num_bytes(t for i, t in shared.items() if i not in keys)

    @cached_property
    def _num_heads(self) -> int:
        return sum(shape.num_kv_heads for shape in self._coded)

    @cached_property
    def _num_coded_values(self) -> int:
        return sum(shape.values_per_token for shape in self._coded)

    @cached_property
    def _windows(self) -> Counter[LayerShape]:
        return Counter(shape for shape in self.shapes if shape.sliding_window is not None)

    @cached_property
    def _uncoded_bytes(self) -> int:
        """One token in the layers that see everything and cannot be coded."""
        growing = [shape for shape in self.shapes if shape.sliding_window is None]
        values = sum(shape.values_per_token for shape in growing) - self._num_coded_values
        return values * self.value_bytes

    @cached_property
    def _num_query_values(self) -> int:
        return sum(shape.num_heads * shape.head_dim for shape in self._coded)

    def _query_bytes(self, num_tokens: int) -> int:
        """The newest queries, which scorers look at."""
        eviction = self.compression.eviction
        num_queries = min(num_tokens, eviction.observation_window if eviction else 0)
        return num_queries * self.value_bytes * self._num_query_values

    def _window_bytes(self, num_tokens: int, num_new: int = 0) -> int:
        values = sum(
            count * shape.values_per_token * _num_held(shape, num_tokens, num_new)
            for shape, count in self._windows.items()
        )
        return values * self.value_bytes + self._windows.total() * _WINDOW_TENSOR_BYTES


def _num_held(shape: LayerShape, num_tokens: int, num_new: int = 0) -> int:
    # a window of n holds n - 1 tokens: the next one sees itself too
    window = shape.sliding_window
    return num_tokens if window is None else min(num_tokens, window - 1 + num_new)


def _pages_of_head(num_coded: int, keep_ratio: float) -> float:
    if keep_ratio == 1:
        return pages_for(num_coded)
    return num_coded * keep_ratio / PAGE_SIZE + 0.5


@lru_cache(maxsize=64)
def _values_coder(dim: int, quant: QuantConfig) -> E8Quantizer:
    return E8Quantizer.create(dim, quant.value_bits, quant.rotation_seed, _NOWHERE)


@lru_cache(maxsize=64)
def _keys_coder(shape: LayerShape, quant: QuantConfig) -> E8Quantizer:
    """The coder that keys have in the mean; a profile moves bits from layer to layer."""
    heads, dim = shape.num_kv_heads, shape.head_dim
    widths = share_bits([torch.ones(heads, dim // 8)], quant.key_bits)[0]
    rows = torch.empty((heads, dim, dim), device=_NOWHERE)
    gains = torch.empty((heads, dim // 8), device=_NOWHERE)
    return E8Quantizer.of_rows(widths, rows, gains, torch.empty((heads, 1, dim), device=_NOWHERE))


def _key_tensors(codec: LayerCodec) -> Sequence[torch.Tensor]:
    coder = codec.keys
    return (coder.basis, coder.column_units, coder.gains, coder.mean)


def _num_bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)
