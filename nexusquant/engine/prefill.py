"""Chunks of a text through the model into a cache.

Knows token ids and a model's forward. Must not know text or sampling.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from nexusquant.cache import CompressedCache, forward_options
from nexusquant.engine.events import PrefillProgress

CHUNK_SIZE = 512
"""Tokens of one forward pass: what can be lost to a stop, and what has to fit beside the cache."""

LARGE_CHUNK_SIZE = 2048
"""Of one on a GPU with room for it: what is packed, weights or pages, is unpacked less often."""


class ReadingSizes(NamedTuple):
    """How a text is read.

    Args:
        exact_span: Tokens that may be exact at once.
        chunk_size: Tokens of one forward pass.
    """

    exact_span: int
    chunk_size: int


def prefill_chunks(
    model: PreTrainedModel,
    token_ids: torch.Tensor,
    cache: CompressedCache,
    chunk_size: int = CHUNK_SIZE,
) -> Generator[PrefillProgress, None, torch.Tensor]:
    """Run the model over `token_ids` [1, T]; the span stays open.

    Args:
        model: The model.
        token_ids: What it reads.
        cache: Where it goes.
        chunk_size: Tokens of one forward pass, at most.

    Yields:
        Progress after every chunk.

    Returns:
        Logits after the last token. [1, vocabulary].
    """
    started = time.perf_counter()
    num_total, num_done = token_ids.shape[1], 0
    logits = torch.empty(0)
    cache.expect(num_total)

    def forwards() -> Iterator[tuple[int, torch.Tensor]]:
        for chunk in _chunks(token_ids.to(model.device), chunk_size):
            yield chunk.shape[1], forward(model, chunk, cache)

    try:
        for num_tokens, newest in when_done(forwards()):
            num_done, logits = num_done + num_tokens, newest
            yield PrefillProgress(num_done, num_total, time.perf_counter() - started)
    finally:
        if num_done < num_total:
            cache.expect(0)
    return logits


def when_done(
    forwards: Iterator[tuple[int, torch.Tensor]],
) -> Iterator[tuple[int, torch.Tensor]]:
    """Pass on what forwards give, each when it is done and not when it is queued.

    By then a GPU has the next one in its queue, so that it never waits for the host. Who stops has
    that one in the cache as well.

    Args:
        forwards: Makes one after the other; gives a number and the logits.
    """
    queued: list[tuple[int, torch.Tensor, torch.cuda.Event | None]] = []
    for number, logits in forwards:
        queued.append((number, logits, _event_after(logits)))
        if len(queued) == 2 or not logits.is_cuda:
            yield _done(*queued.pop(0))
    for of_last in queued:
        yield _done(*of_last)


def _event_after(tensor: torch.Tensor) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None


def _done(
    number: int, logits: torch.Tensor, event: torch.cuda.Event | None
) -> tuple[int, torch.Tensor]:
    if event is not None:
        event.synchronize()
    return number, logits


@torch.no_grad()
def forward(
    model: PreTrainedModel, token_ids: torch.Tensor, cache: CompressedCache
) -> torch.Tensor:
    """One pass over new tokens [1, T]; returns the logits after the last one. [1, vocabulary]."""
    # set anew for every pass: jobs of other texts may run between two of them
    with cache.scaled_positions():
        output = model(
            input_ids=token_ids, past_key_values=cache, use_cache=True, **forward_options(model)
        )
    return output.logits[:, -1]


def _chunks(token_ids: torch.Tensor, chunk_size: int) -> tuple[torch.Tensor, ...]:
    """Full chunks, whose shapes come again in the next text, then the rest."""
    num_full, rest = divmod(token_ids.shape[1], chunk_size)
    sizes = [chunk_size] * num_full + [rest] * (rest > 0)
    if rest == 1 and num_full:
        # a last chunk of a single token would look like a decode step to the cache
        sizes[-2:] = [chunk_size - 1, 2]
    return token_ids.split(sizes, dim=1)
