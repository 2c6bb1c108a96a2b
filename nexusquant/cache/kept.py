"""Which of the coded tokens each KV head still holds, one bit a token and only where some are gone.

Knows token indices and heads. Must not know codes or pages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nexusquant.errors import CacheStateError


@dataclass(frozen=True)
class Segment:
    """A run of tokens of one kind: all kept, or decided on.

    Args:
        num_tokens: Tokens in the run.
        bits: Kept tokens as bits, lowest bit first. [H_kv, ceil(num_tokens / 8)], uint8; None
            when every head kept all of them.
    """

    num_tokens: int
    bits: torch.Tensor | None = None

    def mask(self, num_kv_heads: int, device: torch.device) -> torch.Tensor:
        """Kept tokens of each head. [H_kv, num_tokens], bool."""
        if self.bits is None:
            return torch.ones((num_kv_heads, self.num_tokens), dtype=torch.bool, device=device)
        shifts = torch.arange(8, dtype=torch.uint8, device=self.bits.device)
        return ((self.bits.unsqueeze(-1) >> shifts) & 1).bool().flatten(1)[:, : self.num_tokens]


@dataclass(frozen=True)
class KeptTokens:
    """The coded tokens of one layer in order; appending gives a new value: marks keep the old."""

    segments: tuple[Segment, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens decided on, kept or not."""
        return sum(segment.num_tokens for segment in self.segments)

    @property
    def is_whole(self) -> bool:
        """True when every head kept every token."""
        return all(segment.bits is None for segment in self.segments)

    def append(self, num_tokens: int, mask: torch.Tensor | None = None) -> KeptTokens:
        """Add a run of tokens; `mask` [H_kv, num_tokens] says what is kept, None keeps all."""
        if num_tokens == 0:
            return self
        is_whole = mask is None or bool(mask.all())
        *others, last = self.segments or (None,)
        if last is None or (last.bits is None) != is_whole:
            others = self.segments
        else:
            # one run for all blocks of a text: whoever wants positions goes through every run
            num_tokens += last.num_tokens
            if not is_whole:
                mask = torch.cat([last.mask(mask.shape[0], mask.device), mask], dim=1)
        return KeptTokens((*others, Segment(num_tokens, None if is_whole else _pack_bits(mask))))

    def drop_last(self, num_tokens: int) -> KeptTokens:
        """Take back the newest tokens, of which every one must be kept."""
        last = self.segments[-1]
        if last.bits is not None or last.num_tokens < num_tokens:
            raise CacheStateError("Tokens that were decided on already cannot be decided on again.")
        rest = last.num_tokens - num_tokens
        return KeptTokens((*self.segments[:-1], *([Segment(rest)] if rest else [])))

    def mask(self, num_kv_heads: int, device: torch.device) -> torch.Tensor:
        """Kept tokens of each head. [H_kv, num_tokens], bool."""
        masks = [segment.mask(num_kv_heads, device) for segment in self.segments]
        empty = torch.ones((num_kv_heads, 0), dtype=torch.bool, device=device)
        return torch.cat([empty, *masks], dim=1)

    def shares(self, num_kv_heads: int, device: torch.device) -> torch.Tensor:
        """Share of heads that keep each token. [num_tokens], float32."""
        return self.mask(num_kv_heads, device).float().mean(dim=0)

    def positions(self, first: int, lengths: list[int], device: torch.device) -> torch.Tensor:
        """Token index of every kept pair, head by head.

        Args:
            first: Index of the first coded token.
            lengths: Pairs that each head holds.
            device: Where the result goes.

        Returns:
            Ascending in each head, anything past its length. [H_kv, max(lengths)], int64.
        """
        index = torch.arange(first, first + self.num_tokens, device=device)
        if self.is_whole:
            return index.expand(len(lengths), -1)
        mask = self.mask(len(lengths), device)
        # kept pairs go to their place in the head, the others to one column past all of them
        place = torch.where(mask, mask.cumsum(dim=1) - 1, max(lengths))
        table = index.new_zeros(len(lengths), max(lengths) + 1)
        return table.scatter_(1, place, index.expand_as(place))[:, :-1]


def indices_of(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Kept tokens of each head in order, filled up with others to the longest head's number.

    Args:
        mask: Kept tokens. [H_kv, N], bool.

    Returns:
        Indices in N, int64, and which of them are meant, bool. [H_kv, longest] both.
    """
    counts = mask.sum(dim=1, keepdim=True)
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    place = torch.arange(int(counts.max()), device=mask.device)
    return order[:, : place.shape[0]], place < counts


def _pack_bits(mask: torch.Tensor) -> torch.Tensor:
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[1] % 8)).to(torch.uint8)
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return (padded.unflatten(1, (-1, 8)) << shifts).sum(dim=-1, dtype=torch.uint8)
