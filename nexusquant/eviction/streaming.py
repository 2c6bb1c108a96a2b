"""Keeps the newest tokens, whatever they say. Knows only how many candidates there are."""

from __future__ import annotations

import torch
from torch import Tensor

from nexusquant.eviction.base import Observation, Scorer


class StreamingScorer(Scorer):
    """Scores a token by its position; all heads and layers get the same scores.

    With the sinks that the cache keeps anyway, this is StreamingLLM's attention sink plus window.

    Reference:
        Xiao et al., arXiv 2309.17453, section 3.2.
    """

    name = "streaming"

    def _raw_scores(self, observation: Observation) -> Tensor:
        keys = observation.keys
        num_kv_heads, num_tokens, _ = keys.shape
        position = torch.arange(1, num_tokens + 1, dtype=torch.float32, device=keys.device)
        return position.expand(num_kv_heads, num_tokens)
