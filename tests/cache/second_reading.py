"""Reading a text again by hand. Knows stretches and a model's forward; knows nothing of scores."""

from __future__ import annotations

from dataclasses import replace

import tiny_models
import torch
from driving import EVICTING, EVICTION, decode, read
from transformers import PreTrainedModel

from nexusquant import CompressedCache
from nexusquant.config import CompressionConfig, ScorerName

RECONSTRUCTING = replace(EVICTION, scorer=ScorerName.RECONSTRUCTION, newest_share=0.2)
REREADING = replace(EVICTING, eviction=RECONSTRUCTING)
EARLY = replace(REREADING, exact_prefill_tokens=100)


document = tiny_models.token_ids(300)


def filled(model: PreTrainedModel, config: CompressionConfig = REREADING) -> CompressedCache:
    """A cache that has read `document`, its span still open."""
    cache = CompressedCache(model, config)
    read(model, cache, document, chunk_size=60)
    return cache


def rereading(keep_ratio: float) -> CompressionConfig:
    """`REREADING` that keeps another share."""
    return replace(REREADING, eviction=replace(RECONSTRUCTING, keep_ratio=keep_ratio))


def stretches(waiting: range, size: int = 70) -> list[range]:
    """The tokens that wait, cut into stretches."""
    return [
        range(start, min(start + size, waiting.stop))
        for start in range(waiting.start, waiting.stop, size)
    ]


@torch.no_grad()
def reread(
    model: PreTrainedModel, cache: CompressedCache, ids: torch.Tensor, count: int | None = None
) -> None:
    """Read again what waits of the whole text `ids` [1, T], or its first `count` stretches."""
    for stretch in stretches(cache.waiting_tokens())[:count]:
        with cache.rereading([stretch]):
            model(ids[:, stretch.start : stretch.stop], past_key_values=cache)


def chat(
    model: PreTrainedModel, cache: CompressedCache, num_turns: int = 4, seed: int = 20
) -> torch.Tensor:
    """Short questions of 50 tokens and answers of 13, each span closed; their ids. [1, T]."""
    ids = tiny_models.token_ids(63 * num_turns, seed=seed)
    for turn in ids.split(63, dim=1):
        read(model, cache, turn[:, :50])
        cache.finish_prefill()
        decode(model, cache, turn[:, 50:])
    return ids
