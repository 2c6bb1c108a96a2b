"""Coding of vectors in one kernel. Imports Triton; `reference.py` says what it has to give.

One program codes a tile of vectors of one head, from reading them to writing their bytes, and
nothing in between leaves the registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nexusquant.config import CODE_BITS
from nexusquant.kernels.encode.triton_code import best_code, digits_of, eight_of, top_bits_of
from nexusquant.lattice.quantizer import LARGEST_INPUT

LARGEST = tl.constexpr(LARGEST_INPUT)
DIGITS = tl.constexpr(max(CODE_BITS) // 2)

# a kernel is not built anew for lucky values of these
_ANY_VALUE = [
    *("num_vectors", "num_coded", "num_bytes"),
    *("mean_head", "gains_head", "positions_head"),
]


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
    byte_places,
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
    positions, slots (then vector n of head h has slot h * num_vectors + n). `encoder` has
    COORDINATES columns, `widths`, `units` and each row of `byte_places` have COORDINATES / 8
    entries. `byte_places` says where in a vector's bytes the words of each digit begin and, in
    the last row, where the single bits are, -1 for none; the others are 0 past what is stored.
    `is_bad` is set to 1 where a vector holds NaN or infinity.
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
    vectors += head * vectors_head + rows.to(tl.int64)[:, None] * vectors_token
    encoder += head * encoder_head
    if mean is not None:
        mean += head * mean_head
    y = tl.zeros((TILE, COORDINATES), tl.float32)
    num_bad = tl.zeros((TILE,), tl.int32)
    # values are taken two by two, as they turn
    for start in range(0, DIM // 2, CHUNK // 2):
        pair = start + tl.arange(0, CHUNK // 2)
        is_pair = pair < DIM // 2
        first, second = _places(pair, NUM_PAIRS, PAIRING, DIM)
        x0, bad0 = _load(vectors + first[None, :] * vectors_value, is_row, is_pair)
        x1, bad1 = _load(vectors + second[None, :] * vectors_value, is_row, is_pair)
        num_bad += bad0 + bad1
        if PAIRING != 0:
            is_turned = pair < NUM_PAIRS
            speed = tl.load(frequencies + pair, mask=is_turned, other=0.0)
            angle = token.to(tl.float32)[:, None] * speed[None, :]
            size = tl.where(is_turned, 1.0 / rotary_scaling, 1.0)[None, :]
            cos, sin = tl.cos(angle) * size, tl.sin(angle) * size
            x0, x1 = x0 * cos + x1 * sin, x1 * cos - x0 * sin
        y = _add_product(y, x0, first, is_pair, mean, encoder, PRECISION)
        y = _add_product(y, x1, second, is_pair, mean, encoder, PRECISION)
    tl.store(is_bad, 1, mask=tl.sum(num_bad) > 0)
    y = y * (1 - 2 * (token & 1)).to(tl.float32)[:, None]

    GROUPS: tl.constexpr = COORDINATES // 8
    group = tl.arange(0, GROUPS)
    width = tl.load(widths + group)[None, :]
    gain = tl.load(gains + head * gains_head + group[None, :], mask=width > 0, other=0.0)
    unit = tl.load(units + group)[None, :]
    eight = eight_of(tl.reshape(y, (TILE, GROUPS, 2, 2, 2)))
    low, high, scale_code = best_code(eight, width, gain * gain, unit * unit, num_coded)

    codes += places[:, None] * num_bytes
    for digit in tl.static_range(DIGITS):
        place = tl.load(byte_places + digit * GROUPS + group)[None, :]
        is_stored = is_row[:, None] & (place >= 0)
        word = digits_of(low, high, digit)
        tl.store(codes + place, word.to(tl.uint8), mask=is_stored)
        tl.store(codes + place + 1, (word >> 8).to(tl.uint8), mask=is_stored)
    place = tl.load(byte_places + DIGITS * GROUPS + group)[None, :]
    is_stored = is_row[:, None] & (place >= 0)
    tl.store(codes + place, top_bits_of(low, high, width).to(tl.uint8), mask=is_stored)
    tl.store(scales + places, scale_code.to(tl.uint8), mask=is_row)


@triton.jit
def _places(pair, NUM_PAIRS: tl.constexpr, PAIRING: tl.constexpr, DIM: tl.constexpr):
    """Indices of the two values of each pair; values past those that turn are paired in order.

    PAIRING is 1 for halves and 2 for neighbours; 0 stands for halves that do not turn.
    """
    if PAIRING == 2:
        return 2 * pair, 2 * pair + 1
    elif 2 * NUM_PAIRS == DIM:
        # without a choice, Triton sees that neighbours in memory are read together
        return pair, pair + NUM_PAIRS
    else:
        is_turned = pair < NUM_PAIRS
        first = tl.where(is_turned, pair, 2 * pair)
        return first, tl.where(is_turned, pair + NUM_PAIRS, 2 * pair + 1)


@triton.jit
def _load(places, is_row, is_pair):
    """Some values of every vector, and how many of them are not finite."""
    mask = is_row[:, None] & is_pair[None, :]
    x = tl.load(places, mask=mask, other=0.0).to(tl.float32)
    return x, tl.sum(1 - (tl.abs(x) < float("inf")).to(tl.int32), axis=1)


@triton.jit
def _add_product(y, x, place, is_pair, mean, encoder, PRECISION: tl.constexpr):
    """Add what some values of every vector, less the mean, give for its coordinates."""
    x = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
    if mean is not None:
        x -= tl.load(mean + place, mask=is_pair, other=0.0)[None, :]
    weights = encoder + place[:, None] * y.shape[1] + tl.arange(0, y.shape[1])[None, :]
    weights = tl.load(weights, mask=is_pair[:, None], other=0.0)
    return tl.dot(x, weights, y, input_precision=PRECISION)
