"""Keeps the tokens with the smallest keys. Looks at keys only, at no query and no value."""

from __future__ import annotations

import torch
from torch import Tensor

from nexusquant.eviction.base import Observation, Scorer


class KeyNormScorer(Scorer):
    """Scores a token by how many keys of its head are longer; the smallest key scores most.

    Ranks instead of norms make heads with large and small keys compete on equal terms. Of keys
    with the same norm the earlier one scores more.

    Reference:
        Devoto et al., arXiv 2406.11430, section 3.
    """

    name = "key_norm"

    def _raw_scores(self, observation: Observation) -> Tensor:
        norms = torch.linalg.vector_norm(observation.keys, dim=-1, dtype=torch.float32)
        order = norms.argsort(dim=-1, stable=True)
        num_tokens = norms.shape[-1]
        points = torch.arange(num_tokens, 0, -1, dtype=torch.float32, device=norms.device)
        return torch.empty_like(norms).scatter_(-1, order, points.expand_as(norms))
