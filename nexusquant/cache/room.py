"""Memory for the exact vectors of a text that is being read: each is written once.

Knows tensors. Must not know what they mean, nor when a text ends.
"""

from __future__ import annotations

import torch

Pair = tuple[torch.Tensor, torch.Tensor]


class Room:
    """Keys and values side by side, with space after them.

    Args:
        held: Those that are there already, [H, T, D] each; they are copied.
        num_more: Tokens to come.
    """

    def __init__(self, held: Pair, num_more: int) -> None:
        self._num_held = held[0].shape[1]
        self._buffers = tuple(
            one.new_empty(one.shape[0], self._num_held + num_more, one.shape[2]) for one in held
        )
        for buffer, one in zip(self._buffers, held, strict=True):
            buffer[:, : self._num_held] = one

    def fits(self, new: Pair) -> bool:
        """Whether there is space for these."""
        return self._num_held + new[0].shape[1] <= self._buffers[0].shape[1]

    def append(self, new: Pair) -> Pair:
        """Add tokens, for which there is space, to the end.

        Args:
            new: Keys and values. [H, T, D] each.

        Returns:
            All that are held, as views.
        """
        start, end = self._num_held, self._num_held + new[0].shape[1]
        for buffer, one in zip(self._buffers, new, strict=True):
            buffer[:, start:end] = one
        self._num_held = end
        return tuple(buffer[:, :end] for buffer in self._buffers)
