"""A text into a cache, from the first token to the last byte: read, weigh, evict, code.

Knows the order of things. Must not know text or sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from transformers import PreTrainedModel

from nexusquant.cache import CompressedCache, ModelProfile
from nexusquant.config import CompressionConfig, RopeScaling
from nexusquant.engine.blocks import Blocks
from nexusquant.engine.events import PrefillProgress, RereadProgress
from nexusquant.engine.prefill import prefill_chunks
from nexusquant.engine.reading_sizes import reading_sizes
from nexusquant.engine.rereading import reread_chunks


def prefill(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    config: CompressionConfig,
    *,
    profile: ModelProfile | None = None,
    scaling: RopeScaling | None = None,
    on_progress: Callable[[PrefillProgress | RereadProgress], None] | None = None,
) -> CompressedCache:
    """Read a text into a new compressed cache: chunked prefill, scoring, eviction, coding.

    With the scorer `reconstruction` the text is read a second time.

    Args:
        model: A causal model of transformers, on CPU or CUDA.
        input_ids: The text. [1, T] or [T], int64.
        config: What to compress.
        profile: What is known of the model (`build_profile`); None fits the codes of keys to this
            text, which costs fidelity.
        scaling: Scales positions, for a text beyond the trained length; the model must then be
            called inside `cache.scaled_positions()`.
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
    cache = CompressedCache(model, config, profile, scaling)
    for progress in read_chunks(model, token_ids, cache):
        if on_progress is not None:
            on_progress(progress)
    return cache


def read_chunks(
    model: PreTrainedModel, token_ids: torch.Tensor, cache: CompressedCache
) -> Generator[PrefillProgress | RereadProgress, None, torch.Tensor]:
    """Read `token_ids` [1, T] into the cache, score, evict and code.

    What cannot stay exact as a whole is read in blocks, each of them scored, thinned out and coded
    before the next one: the memory for it does not grow with the text.

    Yields:
        Progress after every chunk.

    Returns:
        Logits after the last token. [1, vocabulary].
    """
    # what a stopped reading left open is no part of this text, and its ids are not known here
    cache.finish_prefill()
    num_tokens = token_ids.shape[1]
    sizes = reading_sizes(model, cache, num_tokens)
    blocks = Blocks(num_tokens, sizes.exact_span, cache.config)
    logits = torch.empty(0)
    for block in blocks.ranges:
        ids = token_ids[:, block.start : block.stop]
        chunks = prefill_chunks(model, ids, cache, sizes.chunk_size)
        logits = yield from blocks.counted(chunks, block)
        ids, to_come = token_ids[:, : block.stop], num_tokens - block.stop
        again = reread_chunks(model, ids, cache, None, sizes.chunk_size, to_come)
        yield from blocks.counted(again, block)
        cache.finish_prefill(num_to_come=to_come)
    return logits
