"""What is in the pages of a layer, as bytes. Knows how a page table is followed."""

from __future__ import annotations

import torch

from nexusquant.cache.layer import CompressedLayer
from nexusquant.config import PAGE_SIZE


def held_pages(layer: CompressedLayer) -> list[list[torch.Tensor]]:
    """Copies of each head's used slots in order: codes and scales of keys, then of values."""
    heads = []
    for head, length in enumerate(layer.pages.lengths):
        pages = layer.pages.page_table[head, : -(-length // PAGE_SIZE)].long()
        parts = [*layer.pages.keys, *layer.pages.values]
        heads.append([part[pages].flatten(0, 1)[:length].clone() for part in parts])
    return heads


def kept_masks(layer: CompressedLayer) -> torch.Tensor:
    """Which of the tokens decided on each head kept. [H_kv, n], bool."""
    return layer.kept.mask(len(layer.pages.lengths), torch.device("cpu"))


def assert_same_bytes(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    """The four parts of one head are equal."""
    assert all(torch.equal(part, counterpart) for part, counterpart in zip(one, other, strict=True))
