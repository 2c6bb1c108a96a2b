"""A cache layer for peers that code vectors after RoPE: sinks, codes, recent window.

Knows which tokens are where. Must not know a code. Every vector is coded once, when it leaves the
recent window, and rebuilt whenever it is read; only what stays between two steps is held, so this
is slow, and its bytes are the method's.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from peers.sixteen_bit import to_16_bit

Coded = tuple[Tensor, ...]
"""Tensors [H_kv, N, ...] that stand for N vectors of each head."""


class Codec(Protocol):
    """A code for vectors."""

    def encode(self, vectors: Tensor) -> Coded:
        """Code vectors [H_kv, N, D]."""

    def decode(self, coded: Coded) -> Tensor:
        """Rebuild vectors. [H_kv, N, D], float32."""


class CodedLayer(CacheLayerMixin):
    """Keys and values of one attention layer, old ones coded.

    Args:
        keys: Code of the keys.
        values: Code of the values.
        num_sink_tokens: First tokens, kept in 16 bits.
        recent_window: Newest tokens, kept in 16 bits.
    """

    is_sliding = False

    def __init__(
        self, keys: Codec, values: Codec, num_sink_tokens: int, recent_window: int
    ) -> None:
        super().__init__()
        self._keys = _CodedVectors(keys, num_sink_tokens, recent_window)
        self._values = _CodedVectors(values, num_sink_tokens, recent_window)
        self._num_seen = 0

    def keep_new_exact(self) -> None:
        """Code no more than what is coded now."""
        self._keys.is_closed = self._values.is_closed = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to prepare: the first vectors bring their own shapes."""
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **options: object
    ) -> tuple[Tensor, Tensor]:
        """Take new keys and values [1, H_kv, T, D]; return all, the new ones exact."""
        self.is_initialized = True
        self._num_seen += key_states.shape[2]
        keys, values = self._keys.extend(key_states[0]), self._values.extend(value_states[0])
        return keys.unsqueeze(0), values.unsqueeze(0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys there will be, and the position of the first."""
        return self._num_seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self._num_seen

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class _CodedVectors:
    def __init__(self, codec: Codec, num_sink_tokens: int, recent_window: int) -> None:
        self._codec, self._num_sinks, self._window = codec, num_sink_tokens, recent_window
        self._sinks: Tensor | None = None
        self._coded: Coded | None = None
        self._recent: Tensor | None = None
        self.is_closed = False

    def extend(self, new: Tensor) -> Tensor:
        """Hold new vectors [H_kv, T, D]; returns all, the older ones as they were stored."""
        parts = [self._sinks, self._coded and self._codec.decode(self._coded), self._recent]
        held = [part.to(new.dtype) for part in parts if part is not None]
        self._hold(new)
        return torch.cat([*held, new], dim=1)

    def _hold(self, new: Tensor) -> None:
        if self._sinks is None:
            # the first call brings the prompt, which is longer than the sinks
            self._sinks = to_16_bit(new[:, : self._num_sinks]).clone()
            new = new[:, self._num_sinks :]
        else:
            new = torch.cat([self._recent.to(new.dtype), new], dim=1)
        num_old = 0 if self.is_closed else max(0, new.shape[1] - self._window)
        # a clone, for a view would keep the whole prompt alive
        self._recent = to_16_bit(new[:, num_old:]).clone()
        if num_old:
            self._append(self._codec.encode(new[:, :num_old]))

    def _append(self, coded: Coded) -> None:
        if self._coded is not None:
            pairs = zip(self._coded, coded, strict=True)
            coded = tuple(torch.cat(pair, dim=1) for pair in pairs)
        self._coded = coded
