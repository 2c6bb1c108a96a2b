"""Stretches of the text read a second time: nothing is stored, attention is watched.

Knows what the second reading sees: the sinks, the stretch itself and its own new tokens. Several
stretches of one length are several texts to the model, which reads them at once. Must not know how
scores become a choice, nor how a layer keeps its vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from nexusquant.cache.attention import CacheHandle
from nexusquant.cache.coding import join
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

    def begin(self, stretches: Sequence[range]) -> None:
        """Look at the tokens of `stretches` from now on, each of them a text of the batch.

        Raises:
            CacheStateError: They are not the next ones that wait, or not of one length.
        """
        first = self.tokens.start + self.num_done
        length = len(stretches[0])
        for number, stretch in enumerate(stretches):
            due = first + number * length
            if stretch.start != due or stretch.stop > self.tokens.stop or len(stretch) != length:
                raise CacheStateError(
                    f"Tokens {stretch.start} to {stretch.stop} were to be read again, but the next "
                    f"ones that wait begin at {due}."
                )
        for reader in filter(None, self._readers):
            reader.stretches = stretches
            reader.columns = slice(self.num_done, self.num_done + len(stretches) * length)

    def end(self, stretches: Sequence[range]) -> None:
        """Their tokens were read: a forward that failed leaves them to be read."""
        self.num_done += sum(map(len, stretches))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int
    ) -> tuple[CacheHandle, CacheHandle] | tuple[torch.Tensor, torch.Tensor]:
        """Stand in for the cache's `update`: new tokens see the stretch and themselves."""
        reader = self._readers[layer_idx]
        if reader is None:
            # a sliding window of one's own tokens only: near enough for what is looked for here
            return key_states, value_states
        reader.own = (key_states.flatten(0, 1), value_states.flatten(0, 1))
        handle = CacheHandle(reader)
        return handle, handle

    def scores(self) -> list[torch.Tensor]:
        """The most attention that every pair got, for each layer with pages. [H_kv, tokens]."""
        readers = [reader for reader in self._readers if reader and reader.layer.codec is not None]
        return [reader.scores for reader in readers]


class _Reader:
    """What takes a layer's place in attention while stretches are read again.

    The heads of all stretches are heads like those of one.
    """

    def __init__(self, layer: CompressedLayer, num_tokens: int) -> None:
        self.layer = layer
        self.own: tuple[torch.Tensor, torch.Tensor] | None = None
        self.stretches: Sequence[range] = ()
        self.columns = slice(0)
        held = layer.sinks[0]
        self.scores = torch.zeros((held.shape[0], num_tokens), device=held.device)

    def get_seq_length(self) -> int:
        return self.layer.get_seq_length()

    def attend(
        self, module: torch.nn.Module, query: torch.Tensor, scaling: float, softcap: float | None
    ) -> torch.Tensor:
        past, found = self._past(), []
        num_texts, rows = query.shape[0], query.flatten(0, 1)
        for heads, queries in self._groups_of_heads(rows, past[0].shape[:2]):
            parts = (tuple(held[heads] for held in pair) for pair in (past, self.own))
            found.append(attend_and_score(rows[queries], *parts, scaling, softcap))
        self.own = None
        output, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        of_stretches = scores[:, -len(self.stretches[0]) :].unflatten(0, (num_texts, -1))
        self.scores[:, self.columns] = of_stretches.transpose(0, 1).flatten(1)
        return output.unflatten(0, (num_texts, -1)).transpose(1, 2)

    def _past(self) -> tuple[torch.Tensor, ...]:
        """Sinks and stretch of each text. [texts * H_kv, sinks + length, D] each."""
        sinks = self.layer.sink_vectors()
        stretches = map(self.layer.vectors, self.stretches)
        texts = [join(sinks, stretch) for stretch in stretches]
        return tuple(torch.cat(parts) for parts in zip(*texts, strict=True))

    @staticmethod
    def _groups_of_heads(
        query: torch.Tensor, past_shape: tuple[int, int]
    ) -> Iterator[tuple[slice, slice]]:
        """KV heads whose logits and weights stay within a bound, and the queries that read them."""
        num_heads, q_len, _ = query.shape
        num_kv_heads, num_past = past_shape
        shared_by = num_heads // num_kv_heads
        of_head = 2 * _FLOAT32 * shared_by * q_len * (num_past + q_len)
        at_once = max(1, REREAD_BYTES // of_head)
        for first in range(0, num_kv_heads, at_once):
            last = min(first + at_once, num_kv_heads)
            yield slice(first, last), slice(first * shared_by, last * shared_by)
