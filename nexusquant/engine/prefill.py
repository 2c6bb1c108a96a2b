"""Reading a text into a cache, chunk by chunk.

Knows token ids and a model's forward. Must not know text or sampling.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import torch
from transformers import PreTrainedModel

from nexusquant.cache import CompressedCache, ModelProfile, forward_options
from nexusquant.config import CompressionConfig
from nexusquant.engine.events import PrefillProgress

CHUNK_SIZE = 512
"""Tokens of one forward pass: what can be lost to a stop, and what has to fit beside the cache."""


def prefill(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    config: CompressionConfig,
    *,
    profile: ModelProfile | None = None,
    on_progress: Callable[[PrefillProgress], None] | None = None,
) -> CompressedCache:
    """Read a text into a new compressed cache: chunked prefill, scoring, eviction, coding.

    Args:
        model: A causal model of transformers, on CPU or CUDA.
        input_ids: The text. [1, T] or [T], int64.
        config: What to compress.
        profile: What is known of the model (`build_profile`); None fits the codes of keys to this
            text, which costs fidelity.
        on_progress: Called after every chunk.

    Returns:
        A cache ready for `model.generate(..., past_key_values=cache)`.

    Raises:
        ValueError: More than one text, or none.
        UnsupportedModelError: The model cannot work with a compressed cache.
    """
    token_ids = input_ids.unsqueeze(0) if input_ids.dim() == 1 else input_ids
    if token_ids.dim() != 2 or token_ids.shape[0] != 1 or token_ids.shape[1] == 0:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; give one text as [1, T], T >= 1."
        )
    cache = CompressedCache(model, config, profile)
    for progress in prefill_chunks(model, token_ids, cache):
        if on_progress is not None:
            on_progress(progress)
    cache.finish_prefill()
    return cache


def prefill_chunks(
    model: PreTrainedModel, token_ids: torch.Tensor, cache: CompressedCache
) -> Generator[PrefillProgress, None, torch.Tensor]:
    """Run the model over `token_ids` [1, T]; the span stays open.

    Yields:
        Progress after every chunk.

    Returns:
        Logits after the last token. [1, vocabulary].
    """
    started = time.perf_counter()
    num_total, num_done = token_ids.shape[1], 0
    logits = torch.empty(0)
    for chunk in _even_chunks(token_ids.to(model.device)):
        logits = forward(model, chunk, cache)
        if logits.is_cuda:
            # progress is what is done, not what is queued; and a stop finds one chunk at most
            torch.cuda.synchronize(logits.device)
        num_done += chunk.shape[1]
        yield PrefillProgress(num_done, num_total, time.perf_counter() - started)
    return logits


@torch.no_grad()
def forward(
    model: PreTrainedModel, token_ids: torch.Tensor, cache: CompressedCache
) -> torch.Tensor:
    """One pass over new tokens [1, T]; returns the logits after the last one. [1, vocabulary]."""
    output = model(
        input_ids=token_ids, past_key_values=cache, use_cache=True, **forward_options(model)
    )
    return output.logits[:, -1]


def _even_chunks(token_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    # equal chunks: a last chunk of a single token would look like a decode step to the cache
    num_chunks = -(-token_ids.shape[1] // CHUNK_SIZE)
    return torch.tensor_split(token_ids, num_chunks, dim=1)
