"""A cache while tokens come one by one, without a question to the device in a step.

Knows when a page's worth of tokens is due. Must not know models, sampling, or how a step is
recorded: its caller does `model(..., past_key_values=cache)`, then `tick`, as often as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nexusquant.cache.codec import check_coded, tools_for
from nexusquant.cache.hf_compat import CacheLayerMixin
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.layer_steps import LayerSteps, StepClock
from nexusquant.config import PAGE_SIZE

if TYPE_CHECKING:
    from nexusquant.cache.cache import CompressedCache

MOST_AHEAD = 16 * PAGE_SIZE
"""Tokens that pages are reserved for at most: they are held while an answer is written."""


class CacheSteps:
    """Buffers for all layers of a cache, which stands still until `close`.

    What `tick` and the model's forward do to the device can be recorded and replayed; `count` and
    `turn_page` are for the host.

    Args:
        cache: One that `steps_problem` finds nothing with.
        most_tokens: Tokens that will come, at most.
    """

    @torch.no_grad()
    def __init__(self, cache: CompressedCache, most_tokens: int) -> None:
        layers = cache.layers
        first = layers[0]
        self._num_slots = first.config.recent_window + PAGE_SIZE
        self._first_recent, self._num_recent = first.first_recent, first.num_recent
        # the first page's worth of a short text has its sinks in it
        has_sinks = first.sinks[0].shape[1] == first.config.num_sink_tokens
        num_ahead = min(MOST_AHEAD, -(-most_tokens // PAGE_SIZE) * PAGE_SIZE)
        self._most_coded = num_ahead if has_sinks else 0
        self._num_new = self._num_coded = 0
        self._has_tools = False
        self._rotary = first.codec.rotary
        slot = first.sinks[0].shape[1] + first.num_recent
        self._clock = StepClock.at(slot, first.num_seen, first.recent[0].device)
        self._layers = [LayerSteps(layer, self._clock, num_ahead) for layer in layers]
        for layer, steps in zip(layers, self._layers, strict=True):
            layer.steps = steps

    @property
    def position(self) -> torch.Tensor:
        """The next token's index in the text, which `tick` counts up. [1, 1], int64."""
        return self._clock.position

    @property
    def is_full(self) -> bool:
        """True when a page's worth of tokens must move before the next one comes."""
        return self._num_recent + self._num_new - self._num_coded == self._num_slots

    @property
    def can_turn_page(self) -> bool:
        """True when it can move in place; else these buffers must be closed and others made."""
        return self._num_coded + PAGE_SIZE <= self._most_coded

    @property
    def is_closed(self) -> bool:
        """True when the cache goes on by itself."""
        return not self._layers

    def tick(self) -> None:
        """A token was written: part of what is recorded."""
        self._clock.tick()

    def count(self) -> None:
        """Take note that a step was started."""
        self._num_new += 1

    @torch.no_grad()
    def turn_page(self) -> None:
        """Code the oldest page's worth of the newest tokens."""
        self._find_tools()
        for layer in self._layers:
            layer.turn_page(self._first_recent + self._num_coded)
        self._num_coded += PAGE_SIZE
        self._clock.turn_page()

    @torch.no_grad()
    def close(self, num_undone: int = 0) -> None:
        """Leave the cache as if it had taken the tokens itself.

        Args:
            num_undone: Newest tokens to forget; none that was coded already.

        Raises:
            ValueError: Some of the tokens could not be coded.
        """
        num_new = self._num_new - num_undone
        if self._num_recent + num_new - self._num_coded >= self._num_slots:
            self._find_tools()
        for layer in self._layers:
            layer.settle(self._num_coded, num_new)
        tools = [layer.tools for layer in self._layers]
        self._layers = []
        check_coded(tools)
        if self._rotary is not None:
            self._rotary.forget_runs()

    def _find_tools(self) -> None:
        """All at once, and once: that takes as long as several steps."""
        if self._has_tools:
            return
        found = tools_for([layer.codec for layer in self._layers])
        self._has_tools = True
        for layer, tools in zip(self._layers, found, strict=True):
            layer.tools = tools


def steps_problem(layers: Sequence[CacheLayerMixin]) -> str | None:
    """Say why layers cannot take tokens in buffers, or None if they can."""
    devices = set()
    for layer in layers:
        if not isinstance(layer, CompressedLayer):
            return "some of its layers see a sliding window only"
        if layer.codec is None:
            return "the cache is not compressed"
        if layer.codec.keys is None or not layer.is_initialized:
            return "its keys were not measured before"
        if layer.span_start is not None:
            return "the text is not read to its end"
        devices.add(layer.sinks[0].device)
    return "its layers are on several devices" if len(devices) > 1 else None
