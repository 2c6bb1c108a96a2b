"""The second reading: the model reads text again, so that eviction sees what matters in it.

Knows token ids, a model's forward and which tokens wait. Must not know how they are scored.
"""

from __future__ import annotations

import time
from collections.abc import Generator

import torch
from transformers import PreTrainedModel

from nexusquant.cache import CompressedCache
from nexusquant.config import ScorerName
from nexusquant.engine.events import RereadProgress
from nexusquant.engine.prefill import CHUNK_SIZE, forward

LEAD = 8
"""Tokens before a stretch that are read with it: they tell where the text is taken up again."""


def reread_chunks(
    model: PreTrainedModel,
    newest_ids: torch.Tensor,
    cache: CompressedCache,
    least: int | None = None,
) -> Generator[RereadProgress, None, None]:
    """Read again what the cache has to decide on, if its config wants that.

    `cache.finish_prefill()` decides afterwards.

    Args:
        model: The model that filled the cache.
        newest_ids: The newest tokens that the cache has seen, up to the last one. [1, T].
        cache: What is read is scored in it; nothing is stored.
        least: Fewer waiting tokens than these are left to wait; None: the config's `min_span`.

    Yields:
        Progress after every chunk.

    Raises:
        ValueError: Not all of the tokens that wait are among `newest_ids`.
    """
    eviction = cache.config.eviction
    if eviction is None or eviction.scorer is not ScorerName.RECONSTRUCTION:
        return
    started = time.perf_counter()
    first = cache.num_seen_tokens - newest_ids.shape[1]
    waiting = cache.waiting_tokens(least)
    if waiting and first > waiting.start:
        raise ValueError(
            f"Tokens from {waiting.start} on wait to be read again; newest_ids begin at {first}."
        )
    newest_ids = newest_ids.to(model.device)
    for start in range(waiting.start, waiting.stop, CHUNK_SIZE):
        stretch = range(start, min(start + CHUNK_SIZE, waiting.stop))
        begin = max(start - first - LEAD, 0)
        with cache.rereading(stretch, waiting):
            logits = forward(model, newest_ids[:, begin : stretch.stop - first], cache)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        done, elapsed = stretch.stop - waiting.start, time.perf_counter() - started
        yield RereadProgress(done, len(waiting), elapsed)
