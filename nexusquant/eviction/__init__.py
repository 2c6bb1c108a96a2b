"""The choice of what attention will not miss: scorers, and selection under one budget."""

from __future__ import annotations

from nexusquant.config import ScorerName
from nexusquant.eviction.base import Observation, Scorer
from nexusquant.eviction.block_budget import ToCome, block_shares, kept_to_come
from nexusquant.eviction.expected_attention import (
    ExpectedAttentionScorer as ExpectedAttentionScorer,
)
from nexusquant.eviction.key_norm import KeyNormScorer as KeyNormScorer
from nexusquant.eviction.reconstruction import attend_and_score
from nexusquant.eviction.selection import per_byte, select_kept
from nexusquant.eviction.snapkv import SnapKVScorer as SnapKVScorer
from nexusquant.eviction.streaming import StreamingScorer as StreamingScorer

# every scorer that is imported above
_SCORERS = {ScorerName(scorer.name): scorer for scorer in Scorer.__subclasses__()}

ONE_PASS_SCORERS = tuple(name for name in ScorerName if name in _SCORERS)
"""Rules that need one reading of the text only: all but `ScorerName.RECONSTRUCTION`."""


def make_scorer(name: ScorerName) -> Scorer:
    """Make the one-pass scorer that a config names.

    Args:
        name: The rule's name, one of `ONE_PASS_SCORERS`.

    Returns:
        A scorer without state.

    Raises:
        ValueError: An unknown name, or a rule that reads the text again.
    """
    try:
        return _SCORERS[ScorerName(name)]()
    except (ValueError, KeyError):
        known = ", ".join(ONE_PASS_SCORERS)
        raise ValueError(f"scorer is {name!r}; choose one of {known}.") from None


__all__ = [
    "ONE_PASS_SCORERS",
    "Observation",
    "Scorer",
    "ToCome",
    "attend_and_score",
    "block_shares",
    "kept_to_come",
    "make_scorer",
    "per_byte",
    "select_kept",
]
