"""Feeding a model by hand, step by step. Knows a model's forward; knows no kind of cache."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import Cache, PreTrainedModel

from nexusquant.config import CompressionConfig, EvictionConfig, QuantConfig, ScorerName

OFF = CompressionConfig(num_sink_tokens=4, recent_window=32)
SAFE = replace(OFF, quant=QuantConfig(key_bits=3, value_bits=2))
TWO_BIT = replace(OFF, quant=QuantConfig(key_bits=2, value_bits=2))
# nothing left to defaults, which are there to be tuned
EVICTION = EvictionConfig(
    keep_ratio=0.35,
    scorer=ScorerName.EXPECTED_ATTENTION,
    head_floor=0.3,
    observation_window=64,
    min_span=64,
)
EVICTING = replace(TWO_BIT, eviction=EVICTION)


@torch.no_grad()
def read(
    model: PreTrainedModel, cache: Cache, ids: torch.Tensor, chunk_size: int | None = None
) -> torch.Tensor:
    """Feed `ids` [1, T] at once or in chunks; the logits of every token. [T, vocabulary]."""
    chunks = ids.split(chunk_size or ids.shape[1], dim=1)
    return torch.cat([model(chunk, past_key_values=cache).logits[0] for chunk in chunks])


def decode(model: PreTrainedModel, cache: Cache, ids: torch.Tensor) -> torch.Tensor:
    """Feed `ids` [1, T] one by one; the logits of every token. [T, vocabulary]."""
    return read(model, cache, ids, chunk_size=1)


def greedy(model: PreTrainedModel, cache: Cache, ids: torch.Tensor, num_new: int) -> list[int]:
    """Feed `ids` [1, T], then `num_new` times the likeliest next token."""
    new: list[int] = []
    for _ in range(num_new):
        new.append(int(read(model, cache, ids)[-1].argmax()))
        ids = torch.tensor([new[-1:]])
    return new
