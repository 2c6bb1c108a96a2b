"""One layer while tokens come one by one: buffers whose shapes and addresses stand still.

Knows where a new token is written and what it attends to, as tensors on the device: nothing here
asks the device for a number, so that a step can be recorded once and replayed. Must not know who
records it, nor when a page's worth of tokens moves (`CacheSteps` says so).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nexusquant.cache.codec import NO_TOOLS, LayerCodec
from nexusquant.cache.coding import view_of
from nexusquant.config import PAGE_SIZE
from nexusquant.kernels import hold_token, packed_attention

if TYPE_CHECKING:
    from nexusquant.cache.layer import CompressedLayer


@dataclass(frozen=True)
class StepClock:
    """Counters on the device, one for all layers: they saw the same tokens.

    Args:
        slot: Where the next token goes, sinks counted. [1], int64.
        num_exact: Exact vectors that it attends to, its own among them: one more. [1], int64.
        position: Its index in the text. [1, 1], int64.
    """

    slot: torch.Tensor
    num_exact: torch.Tensor
    position: torch.Tensor

    @classmethod
    def at(cls, slot: int, position: int, device: torch.device) -> StepClock:
        """Counters that stand at a token; the host knows where that is."""
        slots, num_exact = (torch.tensor([number], device=device) for number in (slot, slot + 1))
        return cls(slots, num_exact, torch.tensor([[position]], device=device))

    def tick(self) -> None:
        """A token was written; part of what is recorded."""
        for counter in (self.slot, self.num_exact, self.position):
            counter.add_(1)

    def turn_page(self) -> None:
        """A page's worth of the oldest tokens left the buffers."""
        self.slot.sub_(PAGE_SIZE)
        self.num_exact.sub_(PAGE_SIZE)


class LayerSteps:
    """Sinks, newest tokens and a view of the pages, in buffers.

    Args:
        layer: With coders for keys and no open span; it stands still until `settle`.
        clock: Shared by all layers.
        num_ahead: Tokens that pages are reserved for.

    Attributes:
        tools: Of the codec, once they are found.
    """

    def __init__(self, layer: CompressedLayer, clock: StepClock, num_ahead: int) -> None:
        self._layer, self._clock = layer, clock
        self._num_sinks = layer.sinks[0].shape[1]
        num_slots = self._num_sinks + layer.config.recent_window + PAGE_SIZE
        self._exact = tuple(
            _in_buffer(*held, num_slots) for held in zip(layer.sinks, layer.recent, strict=True)
        )
        keys = self._exact[0]
        self._means = torch.cat(
            [
                layer.codec.mean_at(keys[:, : self._num_sinks], 0),
                layer.codec.mean_at(keys[:, self._num_sinks :], layer.first_recent),
            ],
            dim=1,
        )
        layer.pages.reserve(num_ahead)
        self._view = view_of(layer, num_ahead)
        self._wide_keys: torch.Tensor | None = None
        self.tools = NO_TOOLS

    @property
    def codec(self) -> LayerCodec:
        """The layer's coders."""
        return self._layer.codec

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What is held besides the layer's own tensors."""
        view = self._view
        return (*self._exact, self._means, view.lengths, view.positions, *self.tools[:2])

    def write(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold a token's key [H_kv, 1, D] and value [H_kv, 1, D_v] as the window would."""
        self._wide_keys = hold_token((keys, values), self._clock.slot, self._exact, self._means)

    def attend(self, query: torch.Tensor, scaling: float, softcap: float | None) -> torch.Tensor:
        """Attention of the newest token's queries [H, 1, D] over all held: [H, 1, D_v]."""
        # for this call only: the memory serves the next layer
        keys, self._wide_keys = self._wide_keys, None
        exact = (keys, self._exact[1])
        return packed_attention(query, self._view, *exact, scaling, softcap, self._clock.num_exact)

    def turn_page(self, first: int) -> None:
        """Code the oldest page's worth of the newest tokens.

        Args:
            first: Index in the text of the first of them.
        """
        codec, pages, view = self._layer.codec, self._layer.pages, self._view
        places = torch.arange(PAGE_SIZE, device=view.lengths.device)
        index, positions = view.lengths[:, None] + places, first + places
        start, end = self._num_sinks, self._num_sinks + PAGE_SIZE
        keys, values = (held[:, start:end] for held in self._exact)
        keys = keys + self._means[:, start:end]
        slots = pages.slots_of(index)
        codec.encode_into(pages.pools, slots, keys, values, positions, self.tools)
        if view.first_position is None:
            view.positions.scatter_(1, index, positions.expand_as(index))
        view.lengths.add_(PAGE_SIZE)
        for buffer in self._exact:
            rest = buffer[:, end:].clone()
            buffer[:, start : start + rest.shape[1]] = rest
        self._means[:, start:] = codec.mean_at(self._exact[0][:, start:], first + PAGE_SIZE)

    def settle(self, num_coded: int, num_new: int) -> None:
        """Leave the layer as if it had taken the new tokens itself.

        Args:
            num_coded: Tokens that were coded meanwhile.
            num_new: Tokens that were written, less those to be forgotten.
        """
        layer, start = self._layer, self._num_sinks
        if layer.steps is not self:
            return
        end = start + layer.num_recent + num_new - num_coded
        layer.steps = None
        layer.recent = tuple(held[:, start:end].clone() for held in self._exact)
        layer.num_seen += num_new
        layer.kept = layer.kept.append(num_coded)
        layer.pages.count(num_coded)
        layer.code_overflow(self.tools)
        layer.pages.shrink()


def _in_buffer(sinks: torch.Tensor, recent: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Sinks and newest tokens with room after them, which holds finite numbers."""
    buffer = recent.new_zeros(recent.shape[0], num_slots, recent.shape[2])
    held = torch.cat([sinks, recent], dim=1)
    buffer[:, : held.shape[1]] = held
    return buffer
