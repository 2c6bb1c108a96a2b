"""Every scorer, and observations to cross them with."""

import torch

from nexusquant.eviction import ONE_PASS_SCORERS, Observation

ALL_SCORERS = ONE_PASS_SCORERS

HEADS = ((1, 1), (4, 4), (6, 3), (14, 2))
"""Query heads and KV heads."""

LENGTHS = ((1, 1, 0), (5, 5, 0), (40, 8, 32), (40, 8, 40), (40, 3, 50), (300, 64, 236))
"""Candidates, observed queries, query_offset."""


def observation(heads=(6, 3), lengths=(40, 8, 32), *, dim=16, dtype=torch.float32, seed=0):
    """Random queries, keys and values of one layer."""
    generator = torch.Generator().manual_seed(seed)
    num_heads, num_kv_heads = heads
    num_tokens, num_queries, query_offset = lengths
    return Observation(
        queries=torch.randn(num_heads, num_queries, dim, generator=generator).to(dtype),
        keys=torch.randn(num_kv_heads, num_tokens, dim, generator=generator).to(dtype),
        values=torch.randn(num_kv_heads, num_tokens, dim // 2, generator=generator).to(dtype),
        query_offset=query_offset,
        scaling=dim**-0.5,
    )
