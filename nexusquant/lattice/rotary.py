"""Rotary position embedding put on keys and taken off again (RoPE: Su et al., arXiv 2104.09864).

Knows frequencies, positions and the two ways of pairing coordinates; knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch

RUNS_KEPT, LONGEST_KEPT = 4, 256
"""Runs of tokens whose angles are kept, and the tokens of the longest."""


class Pairing(str, Enum):
    """Which coordinates of a key turn together."""

    HALVES = "halves"
    """Coordinate i with i + rotary_dim / 2."""
    NEIGHBOURS = "neighbours"
    """Coordinate 2 i with 2 i + 1."""
    NONE = "none"
    """No rotation, or one that is not known: keys are taken as they come."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class RotarySegment:
    """Frequencies in force from one position on.

    Args:
        first: Position of the first token.
        frequencies: Radians per token. [rotary_dim / 2], float32.
    """

    first: int
    frequencies: torch.Tensor


class Rotary:
    """Rotates the keys of one text.

    Args:
        segments: Frequencies over the text, in order; the first begins at 0.
        scaling: Factor on cosines and sines.
    """

    def __init__(self, segments: Sequence[RotarySegment], scaling: float = 1.0) -> None:
        self.segments = tuple(segments)
        self.scaling = scaling
        self._runs: dict[tuple[int, int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def observe(self, first: int, frequencies: torch.Tensor) -> None:
        """Take note of what tokens from position `first` on are rotated by."""
        known = self.segments[-1].frequencies
        if known is frequencies or torch.equal(known.to(frequencies.device), frequencies):
            return
        before = tuple(segment for segment in self.segments if segment.first < first)
        self.segments = (*before, RotarySegment(first, frequencies))
        self.forget_runs()

    def recognise(self, frequencies: torch.Tensor) -> None:
        """Take the model's own tensor in place of equal ones, read from a file for instance."""
        self.segments = tuple(
            RotarySegment(segment.first, frequencies)
            if torch.equal(segment.frequencies.to(frequencies.device), frequencies)
            else segment
            for segment in self.segments
        )
        self.forget_runs()

    def put_on(self, keys: torch.Tensor, positions: torch.Tensor, pairing: Pairing) -> torch.Tensor:
        """Rotate keys as the model would at these positions.

        Args:
            keys: [H, T, D], float32.
            positions: [T] or [H, T], int64.
            pairing: Which coordinates turn together.
        """
        if pairing is Pairing.NONE:
            return keys
        cos, sin = self._angles(positions)
        return _turn(keys, cos * self.scaling, sin * self.scaling, pairing)

    def put_on_run(self, keys: torch.Tensor, first: int, pairing: Pairing) -> torch.Tensor:
        """The same for tokens that follow one another.

        All layers ask for the same runs, one layer after the other: their angles are kept, until
        `forget_runs`.

        Args:
            keys: [H, T, D], float32.
            first: Position of the first.
            pairing: Which coordinates turn together.
        """
        if pairing is Pairing.NONE:
            return keys
        run = (first, keys.shape[-2], keys.device)
        found = self._runs.get(run) or self._keep_run(*run)
        return _turn(keys, *found, pairing)

    def forget_runs(self) -> None:
        """Free what `put_on_run` keeps."""
        self._runs.clear()

    def take_off(
        self, keys: torch.Tensor, positions: torch.Tensor, pairing: Pairing
    ) -> torch.Tensor:
        """Undo `put_on`."""
        if pairing is Pairing.NONE:
            return keys
        cos, sin = self._angles(positions)
        return _turn(keys, cos / self.scaling, -sin / self.scaling, pairing)

    def _keep_run(
        self, first: int, count: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = self._angles(torch.arange(first, first + count, device=device))
        found = cos * self.scaling, sin * self.scaling
        if count <= LONGEST_KEPT:
            if len(self._runs) == RUNS_KEPT:
                del self._runs[next(iter(self._runs))]
            self._runs[first, count, device] = found
        return found

    def _angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # layers may be on several devices, and the model's own tensor is on one
        table = torch.stack([s.frequencies.to(positions.device) for s in self.segments])
        frequencies = table[0]
        if len(self.segments) > 1:
            starts = [segment.first for segment in self.segments[1:]]
            bounds = torch.tensor(starts, device=positions.device)
            frequencies = table[torch.searchsorted(bounds, positions, right=True)]
        angles = positions.unsqueeze(-1).float() * frequencies.float()
        return angles.cos(), angles.sin()


def _turn(
    keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, pairing: Pairing
) -> torch.Tensor:
    """Turn each pair (a, b) to (a cos - b sin, b cos + a sin); coordinates past them stay."""
    num_pairs = cos.shape[-1]
    turned, rest = keys[..., : 2 * num_pairs], keys[..., 2 * num_pairs :]
    if pairing is Pairing.HALVES:
        first, second = turned[..., :num_pairs], turned[..., num_pairs:]
    else:
        first, second = turned[..., ::2], turned[..., 1::2]
    one, other = first * cos - second * sin, second * cos + first * sin
    if pairing is Pairing.HALVES:
        return torch.cat([one, other, rest], dim=-1)
    return torch.cat([torch.stack([one, other], dim=-1).flatten(-2), rest], dim=-1)
