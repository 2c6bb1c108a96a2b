"""A stretch of the text read a second time: nothing is stored, attention is watched.

Knows what the second reading sees: the sinks, the stretch itself and its own new tokens. Must not
know how scores become a choice, nor how a layer keeps its vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from nexusquant.cache.attention import CacheHandle
from nexusquant.cache.hf_compat import CacheLayerMixin
from nexusquant.cache.layer import CompressedLayer
from nexusquant.errors import CacheStateError
from nexusquant.eviction import attend_and_score

REREAD_BYTES = 64 * 2**20
"""Bound on the logits and weights of heads that are watched at a time; one head may take more."""

_FLOAT32 = 4


class Rereading:
    """The scores of tokens that wait for a decision, as far as they were read again.

    Args:
        layers: All layers of the cache; those with pages get scores.
        tokens: Indices of the tokens that wait.
    """

    def __init__(self, layers: Sequence[CacheLayerMixin], tokens: range) -> None:
        self.tokens = tokens
        self.num_done = 0
        self._readers = [
            _Reader(layer, len(tokens)) if isinstance(layer, CompressedLayer) else None
            for layer in layers
        ]

    @property
    def is_complete(self) -> bool:
        """True when every token that waits was read again."""
        return self.num_done == len(self.tokens)

    def begin(self, stretch: range) -> None:
        """Look at the tokens of `stretch` from now on.

        Raises:
            CacheStateError: They are not the next ones that wait.
        """
        if stretch.start != self.tokens.start + self.num_done or stretch.stop > self.tokens.stop:
            raise CacheStateError(
                f"Tokens {stretch.start} to {stretch.stop} were to be read again, but the next "
                f"ones that wait begin at {self.tokens.start + self.num_done}."
            )
        for reader in filter(None, self._readers):
            reader.stretch = stretch
            reader.columns = slice(self.num_done, self.num_done + len(stretch))

    def end(self, stretch: range) -> None:
        """The tokens of `stretch` were read: a forward that failed leaves them to be read."""
        self.num_done += len(stretch)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int
    ) -> tuple[CacheHandle, CacheHandle] | tuple[torch.Tensor, torch.Tensor]:
        """Stand in for the cache's `update`: new tokens see the stretch and themselves."""
        reader = self._readers[layer_idx]
        if reader is None:
            # a sliding window of one's own tokens only: near enough for what is looked for here
            return key_states, value_states
        reader.own = (key_states[0], value_states[0])
        handle = CacheHandle(reader)
        return handle, handle

    def scores(self) -> list[torch.Tensor]:
        """The most attention that every pair got, for each layer with pages. [H_kv, tokens]."""
        readers = [reader for reader in self._readers if reader and reader.layer.codec is not None]
        return [reader.scores for reader in readers]


class _Reader:
    """What takes a layer's place in attention while a stretch is read again."""

    def __init__(self, layer: CompressedLayer, num_tokens: int) -> None:
        self.layer = layer
        self.own: tuple[torch.Tensor, torch.Tensor] | None = None
        self.stretch, self.columns = range(0), slice(0)
        held = layer.sinks[0]
        self.scores = torch.zeros((held.shape[0], num_tokens), device=held.device)

    def get_seq_length(self) -> int:
        return self.layer.get_seq_length()

    def attend(
        self, module: torch.nn.Module, query: torch.Tensor, scaling: float, softcap: float | None
    ) -> torch.Tensor:
        sinks, stretch = self.layer.sink_vectors(), self.layer.vectors(self.stretch)
        past = tuple(torch.cat(pair, dim=1) for pair in zip(sinks, stretch, strict=True))
        outputs = []
        for heads, rows in self._groups_of_heads(query[0], past[0].shape[1]):
            parts = (tuple(held[heads] for held in pair) for pair in (past, self.own))
            output, scores = attend_and_score(query[0, rows], *parts, scaling, softcap)
            self.scores[heads, self.columns] = scores[:, sinks[0].shape[1] :]
            outputs.append(output)
        self.own = None
        return torch.cat(outputs).transpose(0, 1)[None]

    def _groups_of_heads(self, query: torch.Tensor, num_past: int) -> Iterator[tuple[slice, slice]]:
        """KV heads whose logits and weights stay within a bound, and the queries that read them."""
        num_heads, q_len, _ = query.shape
        num_kv_heads = self.scores.shape[0]
        shared_by = num_heads // num_kv_heads
        of_head = 2 * _FLOAT32 * shared_by * q_len * (num_past + q_len)
        at_once = max(1, REREAD_BYTES // of_head)
        for first in range(0, num_kv_heads, at_once):
            last = min(first + at_once, num_kv_heads)
            yield slice(first, last), slice(first * shared_by, last * shared_by)
