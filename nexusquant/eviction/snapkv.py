"""Keeps what the newest queries attend to. Looks at queries and keys, at no value."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nexusquant.eviction.base import Observation, Scorer

POOLING_WIDTH = 7
"""Neighbouring tokens that share the score of the best among them."""


class SnapKVScorer(Scorer):
    """Scores a token by the attention it gets from the observed queries.

    Softmax over all candidates, causal inside the window; mean over the queries; then each token
    takes the most that any of its neighbours got, so that phrases survive whole; mean over the
    query heads of a group. Attention to tokens that are no candidates is left out.

    Reference:
        Li et al., arXiv 2404.14469, section 4.
    """

    name = "snapkv"

    def _raw_scores(self, observation: Observation) -> Tensor:
        groups = observation.num_kv_groups
        scores = []
        # one query head at a time: the attention weights of all heads would not fit
        for kv_head, keys in enumerate(observation.keys):
            keys = keys.float()
            queries = observation.queries[kv_head * groups : (kv_head + 1) * groups]
            attention = torch.stack([_mean_attention(head, keys, observation) for head in queries])
            scores.append(_pool(attention).mean(dim=0))
        return torch.stack(scores)


def _mean_attention(queries: Tensor, keys: Tensor, observation: Observation) -> Tensor:
    """Attention of one head's queries [W, D] to its keys [T, D], averaged over the queries. [T]."""
    logits = (queries.float() * observation.scaling) @ keys.T
    if observation.query_offset < keys.shape[0] - 1:
        device = keys.device
        query_index = observation.query_offset + torch.arange(queries.shape[0], device=device)
        is_future = torch.arange(keys.shape[0], device=device) > query_index.unsqueeze(1)
        logits.masked_fill_(is_future, float("-inf"))
    return logits.softmax(dim=-1).mean(dim=0)


def _pool(attention: Tensor) -> Tensor:
    return functional.max_pool1d(attention, POOLING_WIDTH, stride=1, padding=POOLING_WIDTH // 2)
