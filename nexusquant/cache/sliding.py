"""Marks for the sliding-window layers that stay as transformers keeps them.

Their `update` replaces its tensors instead of writing into them, so a mark is a set of references.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nexusquant.cache.hf_compat import SlidingLayer


@dataclass(frozen=True)
class SlidingMark:
    """A sliding-window layer at one moment."""

    is_initialized: bool
    keys: torch.Tensor | None
    values: torch.Tensor | None
    num_seen: int


def mark_sliding(layer: SlidingLayer) -> SlidingMark:
    """Remember this moment of the layer."""
    return SlidingMark(layer.is_initialized, layer.keys, layer.values, layer.cumulative_length)


def trim_sliding(layer: SlidingLayer) -> None:
    """Let go of a prompt's tokens that left the window: the layer holds a view into all of them."""
    if layer.is_initialized:
        layer.keys, layer.values = layer.keys.clone(), layer.values.clone()


def reset_sliding(layer: SlidingLayer) -> None:
    """Forget every token; transformers might write zeros into what marks hold."""
    rewind_sliding(layer, SlidingMark(False, None, None, 0))


def rewind_sliding(layer: SlidingLayer, mark: SlidingMark) -> None:
    """Be again what `mark` remembers."""
    layer.is_initialized = mark.is_initialized
    layer.keys, layer.values, layer.cumulative_length = mark.keys, mark.values, mark.num_seen
