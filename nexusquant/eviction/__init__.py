"""The choice of what attention will not miss: scorers, and selection under one budget."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nexusquant.config import ScorerName
from nexusquant.eviction.base import Observation, Scorer
from nexusquant.eviction.expected_attention import ExpectedAttentionScorer
from nexusquant.eviction.key_norm import KeyNormScorer
from nexusquant.eviction.selection import select_kept
from nexusquant.eviction.snapkv import SnapKVScorer
from nexusquant.eviction.streaming import StreamingScorer

_SCORERS: Mapping[ScorerName, type[Scorer]] = MappingProxyType(
    {
        ScorerName.STREAMING: StreamingScorer,
        ScorerName.KEY_NORM: KeyNormScorer,
        ScorerName.SNAPKV: SnapKVScorer,
        ScorerName.EXPECTED_ATTENTION: ExpectedAttentionScorer,
    }
)


def make_scorer(name: ScorerName) -> Scorer:
    """Make the scorer that a config names.

    Args:
        name: The rule's name.

    Returns:
        A scorer without state.

    Raises:
        ValueError: An unknown name.
    """
    try:
        return _SCORERS[ScorerName(name)]()
    except ValueError:
        known = ", ".join(_SCORERS)
        raise ValueError(f"scorer is {name!r}; choose one of {known}.") from None


__all__ = [
    "ExpectedAttentionScorer",
    "KeyNormScorer",
    "Observation",
    "Scorer",
    "SnapKVScorer",
    "StreamingScorer",
    "make_scorer",
    "select_kept",
]
