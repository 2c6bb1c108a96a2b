"""The second reading: the model reads text again, so that eviction sees what matters in it.

It reads in stretches, which know nothing of one another: with room for it, several at once.

Knows token ids, a model's forward and which tokens wait. Must not know how they are scored.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import torch
from transformers import PreTrainedModel

from nexusquant.cache import CompressedCache
from nexusquant.config import ScorerName
from nexusquant.engine.events import RereadProgress
from nexusquant.engine.prefill import CHUNK_SIZE, forward, when_done

STRETCH = 512
"""Tokens that see one another when they are read again, besides the text's first ones."""

LEAD = 8
"""Tokens before a stretch that are read with it: they tell where the text is taken up again."""


def reread_chunks(
    model: PreTrainedModel,
    newest_ids: torch.Tensor,
    cache: CompressedCache,
    least: int | None = None,
    chunk_size: int = CHUNK_SIZE,
    num_to_come: int = 0,
) -> Generator[RereadProgress, None, None]:
    """Read again what the cache has to decide on, if its config wants that.

    `cache.finish_prefill()` decides afterwards.

    Args:
        model: The model that filled the cache.
        newest_ids: The newest tokens that the cache has seen, up to the last one. [1, T].
        cache: What is read is scored in it; nothing is stored.
        least: Fewer waiting tokens than these are left to wait; None: the config's `min_span`.
        chunk_size: Tokens of one forward pass, at most, besides those that lead into a stretch.
        num_to_come: Tokens that will be read before the cache is asked again what waits.

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
    waiting = cache.waiting_tokens(least, num_to_come)
    if waiting and first > waiting.start:
        raise ValueError(
            f"Tokens from {waiting.start} on wait to be read again; newest_ids begin at {first}."
        )
    newest_ids = newest_ids.to(model.device)

    def forwards() -> Iterator[tuple[int, torch.Tensor]]:
        for batch in _batches(waiting, first, max(1, chunk_size // STRETCH)):
            texts = [newest_ids[0, _lead(text, first) : text.stop - first] for text in batch]
            with cache.rereading(batch, waiting):
                logits = forward(model, torch.stack(texts), cache)
            yield batch[-1].stop - waiting.start, logits

    for num_done, _ in when_done(forwards()):
        yield RereadProgress(num_done, len(waiting), time.perf_counter() - started)


def _batches(waiting: range, first: int, at_once: int) -> Iterator[list[range]]:
    """Stretches that are as long and have as many tokens before them, then the rest."""
    batch: list[range] = []
    for start in range(waiting.start, waiting.stop, STRETCH):
        stretch = range(start, min(start + STRETCH, waiting.stop))
        if batch and (len(batch) == at_once or _shape(stretch, first) != _shape(batch[0], first)):
            yield batch
            batch = []
        batch.append(stretch)
    if batch:
        yield batch


def _shape(stretch: range, first: int) -> tuple[int, int]:
    return len(stretch), stretch.start - first - _lead(stretch, first)


def _lead(stretch: range, first: int) -> int:
    """Where in the ids a stretch begins to be read."""
    return max(stretch.start - first - LEAD, 0)
