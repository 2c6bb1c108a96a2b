"""How much of a text may be exact at once, and in one forward, on the device that reads it now.

Knows the memory plan and what is free. Must not know how a text is read.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from nexusquant.cache import CompressedCache
from nexusquant.engine.memory import bytes_for_tensors
from nexusquant.engine.memory_plan import LEAST_EXACT_SPAN, plan_memory
from nexusquant.engine.plan_text import refusal
from nexusquant.engine.prefill import CHUNK_SIZE, ReadingSizes
from nexusquant.engine.weights import Precision, WeightCount
from nexusquant.errors import OutOfMemoryError

_LOADED_ALREADY = WeightCount(0, 0, 0)


def reading_sizes(model: PreTrainedModel, cache: CompressedCache, num_new: int) -> ReadingSizes:
    """Tokens that may be exact at once, and in one forward, while `num_new` are read into a cache.

    On a CPU that is what the config says; on a GPU what fits beside what is there already.

    Args:
        model: The model that reads.
        cache: What it reads into.
        num_new: Tokens of the text.

    Raises:
        OutOfMemoryError: They do not even fit in the smallest sizes; nothing was read.
    """
    devices = {parameter.device for parameter in model.parameters()}
    gpus = [device for device in devices if device.type == "cuda"]
    unplanned = ReadingSizes(cache.config.exact_prefill_tokens, CHUNK_SIZE)
    if not gpus or num_new <= LEAST_EXACT_SPAN:
        return unplanned
    plan = plan_memory(model.config, cache.config, _precision_of(model), weights=_LOADED_ALREADY)
    held = cache.usage().stored_bytes if cache.num_seen_tokens else 0
    # layers are shared out evenly: the fullest card decides
    free = min(map(bytes_for_tensors, gpus)) * len(gpus)
    room = plan.context_bytes + held + free
    num_tokens = cache.num_seen_tokens + num_new
    sizes = plan.sizes_that_fit(num_tokens, room)
    if sizes is None and cache.config.is_off:
        # the plan is cautious, and there is no other way to read it
        return unplanned
    if sizes is None:
        # it would end in the same way, after minutes of reading
        told = refusal(plan, num_tokens, room) or f"{num_tokens:,} tokens do not fit."
        raise OutOfMemoryError(
            f"{told} A preset that keeps less or a smaller model leaves room for more."
        )
    return sizes


def _precision_of(model: PreTrainedModel) -> Precision:
    if getattr(model, "is_loaded_in_4bit", False):
        return Precision.NF4
    if getattr(model, "is_loaded_in_8bit", False):
        return Precision.INT8
    is_wide = model.dtype is torch.float32
    return Precision.FLOAT32 if is_wide else Precision.BFLOAT16
