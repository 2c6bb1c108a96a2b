"""Holding a new token, one program for every vector that is held. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(65504.0)


@triton.jit
def hold_kernel(
    new_keys,
    new_keys_head,
    new_values,
    new_values_head,
    slot,
    keys,
    values,
    means,
    wide_keys,
    num_slots,
    DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Programs are (place, KV head). Reference: `reference.hold_token`."""
    place = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_key = column < DIM
    row = (head * num_slots + place) * DIM + column
    mean = tl.load(means + row, mask=is_key)
    if tl.load(slot) == place:
        key = tl.load(new_keys + head * new_keys_head + column, mask=is_key).to(tl.float32) - mean
        key = tl.minimum(tl.maximum(key, -LARGEST), LARGEST).to(tl.float16)
        tl.store(keys + row, key, mask=is_key)
        is_value = column < VALUE_DIM
        value = tl.load(new_values + head * new_values_head + column, mask=is_value)
        if value.dtype == tl.float32:
            value = tl.minimum(tl.maximum(value, -LARGEST), LARGEST)
        target = values + (head * num_slots + place) * VALUE_DIM + column
        tl.store(target, value.to(values.dtype.element_ty), mask=is_value)
    else:
        key = tl.load(keys + row, mask=is_key)
    tl.store(wide_keys + row, key.to(tl.float32) + mean, mask=is_key)
