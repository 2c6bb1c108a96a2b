"""What one turn cost, measured. Knows no text."""

from __future__ import annotations

from dataclasses import dataclass

from nexusquant.cache import CacheUsage
from nexusquant.engine.memory import MemoryReading


@dataclass(frozen=True)
class GenerationStats:
    """Figures of one turn.

    Args:
        num_prompt_tokens: Tokens read in this turn; what the cache held already is not read again.
        num_new_tokens: Tokens generated.
        ttft_s: Seconds that somebody waited for the first new token.
        prefill_tok_s: Prompt tokens per second, a second reading of them included.
        decode_tok_s: New tokens per second after the first; 0.0 with fewer than two.
        usage: The cache at the end of the turn.
        memory: Device and process memory at the end of the turn.
        graph_problem: Why a GPU's steps were started kernel by kernel and not as a CUDA graph, if
            they were.
    """

    num_prompt_tokens: int
    num_new_tokens: int
    ttft_s: float
    prefill_tok_s: float
    decode_tok_s: float
    usage: CacheUsage
    memory: MemoryReading
    graph_problem: str | None = None
