"""What every scorer sees and promises. Knows no storage, no budgets and no model.

The promise that makes scores comparable: for each head, scores are non-negative and average one
over the tokens (or are all zero). So the scores of all heads and layers can compete for one
budget, and a head that spreads its weight evenly keeps about as many pairs as it has, while one
that looks at a few tokens asks for those few.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class Observation(NamedTuple):
    """One layer's span of text, as attention sees it.

    Args:
        queries: Newest queries of the span, after RoPE, in order. [H, W, D], floating, W >= 1;
            W may be smaller than the observation window.
        keys: The span's candidates for eviction, after RoPE, in order. [H_kv, T, D], floating.
        values: Values of the candidates. [H_kv, T, D_v], floating.
        query_offset: Index in T of the first query's own token; T or more if the queries come
            after all candidates.
        scaling: Factor on query-key products in attention.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    query_offset: int
    scaling: float

    @property
    def num_kv_groups(self) -> int:
        """Query heads that read one KV head: query head h reads KV head h // num_kv_groups."""
        return self.queries.shape[0] // self.keys.shape[0]


class Scorer(ABC):
    """A rule that ranks key-value pairs. Has no state; one instance serves all layers.

    Attributes:
        name: Its value in `config.ScorerName`.
    """

    name: ClassVar[str]

    def score(self, observation: Observation) -> Tensor:
        """Rank the candidates of one layer.

        Args:
            observation: The span.

        Returns:
            Scores, higher = keep; at least 0, averaging one over each head's tokens (all zero
            if nothing speaks for any). [H_kv, T], float32.

        Raises:
            ValueError: Shapes that do not fit together, or queries before the first candidate.
        """
        _check(observation)
        if observation.keys.shape[1] == 0:
            return observation.keys.new_zeros(observation.keys.shape[:2], dtype=torch.float32)
        scores = self._raw_scores(observation)
        mean = scores.mean(dim=-1, keepdim=True)
        return scores / mean.clamp(min=torch.finfo(torch.float32).tiny)

    @abstractmethod
    def _raw_scores(self, observation: Observation) -> Tensor:
        """Non-negative scores of one or more candidates, any unit per head. [H_kv, T], float32."""


def _check(observation: Observation) -> None:
    queries, keys, values = observation.queries, observation.keys, observation.values
    if queries.dim() != 3 or queries.shape[1] == 0:
        raise ValueError(
            f"queries have shape {tuple(queries.shape)}; use [H, W, D] with W of 1 or more."
        )
    if keys.dim() != 3 or values.dim() != 3 or keys.shape[:2] != values.shape[:2]:
        raise ValueError(
            f"keys have shape {tuple(keys.shape)} and values {tuple(values.shape)}; "
            "use [H_kv, T, D] and [H_kv, T, D_v] with the same heads and tokens."
        )
    if queries.shape[2] != keys.shape[2] or queries.shape[0] % keys.shape[0]:
        raise ValueError(
            f"queries have shape {tuple(queries.shape)} and keys {tuple(keys.shape)}; "
            "D must agree, and the heads of queries must be a multiple of those of keys."
        )
    if observation.query_offset < 0:
        raise ValueError(f"query_offset is {observation.query_offset}; it must be 0 or more.")
