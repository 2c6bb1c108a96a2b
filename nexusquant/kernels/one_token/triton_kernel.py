"""One token's way through a layer, in Triton. Reference: `reference.py`. Imports Triton.

Sums are in float32. A result is rounded to the type of the inputs where a model would write it to
memory, so that a kernel differs from the steps it stands for by the order of sums only.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm_kernel(x, weight, out, eps, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Programs are vectors."""
    first = tl.program_id(0).to(tl.int64) * DIM
    column = tl.arange(0, BLOCK)
    is_value = column < DIM
    value = tl.load(x + first + column, mask=is_value, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / DIM + eps)
    rounded = (value * scale).to(out.dtype.element_ty).to(tl.float32)
    factor = tl.load(weight + column, mask=is_value, other=0.0).to(tl.float32)
    tl.store(out + first + column, (factor * rounded).to(out.dtype.element_ty), mask=is_value)


@triton.jit
def rotate_kernel(
    query,
    query_head,
    key,
    key_head,
    cos,
    sin,
    out_query,
    out_key,
    num_query_heads,
    DIM: tl.constexpr,
    TURNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Programs are heads, those of queries first."""
    head = tl.program_id(0)
    if head < num_query_heads:
        _rotate(query + head * query_head, cos, sin, out_query + head * DIM, DIM, TURNED, BLOCK)
    else:
        head -= num_query_heads
        _rotate(key + head * key_head, cos, sin, out_key + head * DIM, DIM, TURNED, BLOCK)


@triton.jit
def _rotate(x, cos, sin, out, DIM: tl.constexpr, TURNED: tl.constexpr, BLOCK: tl.constexpr):
    half: tl.constexpr = TURNED // 2
    column = tl.arange(0, BLOCK)
    is_turned = column < TURNED
    is_left = column < half
    other = tl.where(is_left, column + half, column - half)
    own = tl.load(x + column, mask=column < DIM, other=0.0)
    across = tl.load(x + other, mask=is_turned, other=0.0).to(tl.float32)
    by_cos = own.to(tl.float32) * tl.load(cos + column, mask=is_turned, other=1.0).to(tl.float32)
    by_sin = across * tl.load(sin + column, mask=is_turned, other=0.0).to(tl.float32)
    by_sin = tl.where(is_left, -by_sin, by_sin)
    by_cos, by_sin = by_cos.to(own.dtype).to(tl.float32), by_sin.to(own.dtype).to(tl.float32)
    tl.store(out + column, (by_cos + by_sin).to(own.dtype), mask=column < DIM)


@triton.jit
def linear_kernel(
    x,
    weight,
    bias,
    out,
    num_rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Programs are ROWS rows of the matrix."""
    _linear(x, weight, bias, out, tl.program_id(0), num_rows, WIDTH, ROWS, CHUNK, HAS_BIAS)


@triton.jit
def projections_kernel(
    x,
    query,
    key,
    value,
    query_bias,
    key_bias,
    value_bias,
    out_query,
    out_key,
    out_value,
    num_query_rows,
    num_key_rows,
    num_value_rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Programs are ROWS rows of a matrix: those of queries first, then keys, then values."""
    part = tl.program_id(0)
    num_query = tl.cdiv(num_query_rows, ROWS)
    num_key = tl.cdiv(num_key_rows, ROWS)
    if part < num_query:
        _linear(x, query, query_bias, out_query, part, num_query_rows, WIDTH, ROWS, CHUNK, HAS_BIAS)
    elif part < num_query + num_key:
        part -= num_query
        _linear(x, key, key_bias, out_key, part, num_key_rows, WIDTH, ROWS, CHUNK, HAS_BIAS)
    else:
        part -= num_query + num_key
        _linear(x, value, value_bias, out_value, part, num_value_rows, WIDTH, ROWS, CHUNK, HAS_BIAS)


@triton.jit
def _linear(
    x,
    weight,
    bias,
    out,
    part,
    num_rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    row = part * ROWS + tl.arange(0, ROWS)
    total = _products(x, weight, row, num_rows, WIDTH, ROWS, CHUNK)
    if HAS_BIAS:
        total += tl.load(bias + row, mask=row < num_rows, other=0.0).to(tl.float32)
    tl.store(out + row, total.to(out.dtype.element_ty), mask=row < num_rows)


@triton.jit
def gated_kernel(
    x,
    gate,
    up,
    out,
    num_rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Programs are ROWS rows of both matrices."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    opened = _products(x, gate, row, num_rows, WIDTH, ROWS, CHUNK)
    passed = _products(x, up, row, num_rows, WIDTH, ROWS, CHUNK)
    opened = opened.to(out.dtype.element_ty).to(tl.float32)
    opened = (opened / (1.0 + tl.exp(-opened))).to(out.dtype.element_ty).to(tl.float32)
    passed = passed.to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row, (opened * passed).to(out.dtype.element_ty), mask=row < num_rows)


@triton.jit
def _products(
    x,
    weight,
    row,
    num_rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Products of some rows of a matrix with a vector. [ROWS], float32."""
    begin = weight + row.to(tl.int64)[:, None] * WIDTH
    sums = tl.zeros((ROWS, CHUNK), tl.float32)
    for first in range(0, WIDTH, CHUNK):
        column = first + tl.arange(0, CHUNK)
        is_column = column < WIDTH
        is_inside = (row < num_rows)[:, None] & is_column[None, :]
        value = tl.load(x + column, mask=is_column, other=0.0).to(tl.float32)
        # weights are read once a token: they need not stay where other things are kept
        factor = tl.load(
            begin + column[None, :], mask=is_inside, other=0.0, eviction_policy="evict_first"
        )
        sums += factor.to(tl.float32) * value[None, :]
    return tl.sum(sums, axis=1)
