"""Keeps what queries still to come are expected to attend to. Looks at queries, keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from nexusquant.eviction.base import Observation, Scorer


class ExpectedAttentionScorer(Scorer):
    """Scores a token by its expected attention weight times the length of its value.

    The queries of a head are taken as Gaussian with the mean mu and the covariance Sigma of the
    observed ones. Then a key k has the expected unnormalised weight
    exp(scaling * k.mu + scaling^2 / 2 * k^T Sigma k), which is normalised over the candidates and
    averaged over the query heads of a group.

    The paper models queries before RoPE and averages the rotation over the positions to come.
    Here the queries of the span's end, after RoPE, stand for those positions as they are. The
    paper also multiplies by the output projection; here only the value itself counts.

    Reference:
        Devoto et al., arXiv 2510.00636, section 3.
    """

    name = "expected_attention"

    def _raw_scores(self, observation: Observation) -> Tensor:
        groups = observation.num_kv_groups
        scores = []
        for kv_head, keys in enumerate(observation.keys):
            keys = keys.float()
            queries = observation.queries[kv_head * groups : (kv_head + 1) * groups]
            weights = [_expected_weights(head, keys, observation.scaling) for head in queries]
            scores.append(torch.stack(weights).mean(dim=0))
        norms: Tensor = torch.linalg.vector_norm(observation.values, dim=-1, dtype=torch.float32)
        return torch.stack(scores) * norms


def _expected_weights(queries: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Expected attention of one head's queries [W, D] to its keys [T, D], summing to one. [T]."""
    queries = queries.float() * scaling
    mean = queries.mean(dim=0)
    # k^T Sigma k is the mean squared product with the centred queries: Sigma is never formed
    spread = (keys @ (queries - mean).T).square_().mean(dim=-1)
    log_weights: Tensor = keys @ mean + 0.5 * spread
    return log_weights.softmax(dim=-1)
