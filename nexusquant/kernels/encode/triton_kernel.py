"""Coding of vectors in one kernel. Imports Triton; `reference.py` says what it has to give.

One program codes a tile of vectors of one head, from reading them to writing their bytes, and
nothing in between leaves the registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nexusquant.kernels.encode.triton_code import best_code, eight_of
from nexusquant.lattice.quantizer import LARGEST_INPUT

LARGEST = tl.constexpr(LARGEST_INPUT)
MOST_BITS = tl.constexpr(6)

# a kernel is not built anew for lucky values of these
_ANY_VALUE = ["num_vectors", "num_bytes", "mean_head", "gains_head", "positions_head"]


@triton.jit(do_not_specialize=_ANY_VALUE)
def encode_kernel(
    vectors,
    vectors_head,
    vectors_token,
    vectors_value,
    mean,
    mean_head,
    encoder,
    encoder_head,
    gains,
    gains_head,
    widths,
    units,
    positions,
    positions_head,
    frequencies,
    rotary_scaling,
    slots,
    codes,
    scales,
    is_bad,
    num_vectors,
    num_coded,
    num_bytes,
    NUM_PAIRS: tl.constexpr,
    PAIRING: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    COORDINATES: tl.constexpr,
    CHUNK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Code TILE vectors of one head into their slots; programs are (tile, head).

    Reference: `nexusquant.kernels.encode.reference.encode`. Pointers that are None: mean,
    positions, slots (then vector n of head h has slot h * num_vectors + n). `widths` and `units`
    have COORDINATES / 8 entries, 0 past the stored groups; `is_bad` is set to 1 where a vector
    holds NaN or infinity.
    """
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_row = rows < num_vectors
    places = head * num_vectors + rows
    if slots is not None:
        places = tl.load(slots + places, mask=is_row, other=-1)
        is_row = is_row & (places >= 0)
    token = tl.zeros((TILE,), tl.int64)
    if positions is not None:
        token = tl.load(positions + head * positions_head + rows, mask=is_row, other=0)
    columns = tl.arange(0, COORDINATES)
    vectors += head * vectors_head + rows.to(tl.int64)[:, None] * vectors_token
    y = tl.zeros((TILE, COORDINATES), tl.float32)
    num_bad = tl.zeros((TILE,), tl.int32)
    for start in range(0, DIM, CHUNK):
        d = start + tl.arange(0, CHUNK)
        is_value = is_row[:, None] & (d < DIM)[None, :]
        x = tl.load(vectors + d[None, :] * vectors_value, mask=is_value, other=0.0).to(tl.float32)
        num_bad += tl.sum(1 - (tl.abs(x) < float("inf")).to(tl.int32), axis=1)
        if PAIRING != 0:
            partner, pair, side = _partner(d, NUM_PAIRS, PAIRING)
            is_turned = is_value & (d < 2 * NUM_PAIRS)[None, :]
            other = tl.load(vectors + partner[None, :] * vectors_value, mask=is_turned, other=0.0)
            speed = tl.load(frequencies + pair, mask=d < 2 * NUM_PAIRS, other=0.0)
            angle = token.to(tl.float32)[:, None] * speed[None, :]
            turned = x * tl.cos(angle) + side[None, :] * other.to(tl.float32) * tl.sin(angle)
            x = tl.where(is_turned, turned / rotary_scaling, x)
        x = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
        if mean is not None:
            x -= tl.load(mean + head * mean_head + d, mask=d < DIM, other=0.0)[None, :]
        weights = tl.load(
            encoder + head * encoder_head + d[:, None] * num_coded + columns[None, :],
            mask=(d < DIM)[:, None] & (columns < num_coded)[None, :],
            other=0.0,
        )
        y = tl.dot(x, weights, y, input_precision=PRECISION)
    tl.store(is_bad, 1, mask=tl.sum(num_bad) > 0)
    y = y * (1 - 2 * (token & 1)).to(tl.float32)[:, None]

    GROUPS: tl.constexpr = COORDINATES // 8
    group = tl.arange(0, GROUPS)
    width = tl.load(widths + group)[None, :]
    gain = tl.load(gains + head * gains_head + group[None, :], mask=width > 0, other=0.0)
    unit = tl.load(units + group)[None, :]
    eight = eight_of(tl.reshape(y, (TILE, GROUPS, 2, 2, 2)))
    low, high, scale_code = best_code(eight, width, gain * gain, unit * unit, num_coded)

    word = low.to(tl.int64) | (high.to(tl.int64) << (4 * width))
    codes += places[:, None] * num_bytes + tl.cumsum(width, 1) - width
    for byte in tl.static_range(MOST_BITS):
        is_stored = is_row[:, None] & (byte < width)
        tl.store(codes + byte, (word >> (8 * byte)).to(tl.uint8), mask=is_stored)
    tl.store(scales + places, scale_code.to(tl.uint8), mask=is_row)


@triton.jit
def _partner(d, NUM_PAIRS: tl.constexpr, PAIRING: tl.constexpr):
    """The coordinate that turns with each, their pair, and the sign of its sine; unused past 2 P.

    PAIRING is 1 for halves and 2 for neighbours.
    """
    if PAIRING == 1:
        is_first = d < NUM_PAIRS
        pair = tl.where(is_first, d, d - NUM_PAIRS)
        partner = tl.where(is_first, d + NUM_PAIRS, d - NUM_PAIRS)
    else:
        is_first = d % 2 == 0
        pair = d // 2
        partner = tl.where(is_first, d + 1, d - 1)
    return partner, pair, tl.where(is_first, 1.0, -1.0)
