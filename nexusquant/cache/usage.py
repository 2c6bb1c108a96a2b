"""The measured size of a cache. Knows counts and bytes, nothing of how they came about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheUsage:
    """A cache at one moment, measured on the tensors it holds.

    A pair is one key with its value, in one layer and KV head.

    Args:
        stored_bytes: Bytes of every tensor reachable from the cache, marks included.
        uncompressed_bytes: What the seen tokens would take in 16 bits.
        num_seen_tokens: Tokens the model has read or written; positions count these.
        num_stored_pairs: Pairs held, over all layers and KV heads.
        num_seen_pairs: Pairs there would be with nothing evicted.
        num_quantized_pairs: Pairs held as packed codes.
        bits_per_value: Bits per value of the quantized pairs: codes, scales, page slack.
        bytes_by_part: Where the bytes are: codes, exact (sinks and recent window), tables
            (page tables, positions, codec state), marks, uncompressed layers.
        uncompressed_layers: Layers left as transformers keeps them.
    """

    stored_bytes: int
    uncompressed_bytes: int
    num_seen_tokens: int
    num_stored_pairs: int
    num_seen_pairs: int
    num_quantized_pairs: int
    bits_per_value: float
    bytes_by_part: tuple[tuple[str, int], ...]
    uncompressed_layers: tuple[int, ...] = ()

    @property
    def compression_factor(self) -> float:
        """Uncompressed over stored bytes; 1.0 for an empty cache."""
        return self.uncompressed_bytes / self.stored_bytes if self.stored_bytes else 1.0

    @property
    def num_stored_tokens(self) -> float:
        """Tokens held, as the mean over layers and KV heads."""
        return self.num_seen_tokens * self.kept_share

    @property
    def kept_share(self) -> float:
        """Share of the pairs seen that are still held, in [0, 1]."""
        return self.num_stored_pairs / self.num_seen_pairs if self.num_seen_pairs else 1.0

    @property
    def num_evicted_tokens(self) -> float:
        """Tokens removed, as the mean over layers and KV heads."""
        return self.num_seen_tokens - self.num_stored_tokens
