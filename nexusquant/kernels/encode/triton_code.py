"""Codes of vectors whose coordinates lie in registers: the part of the kernel that is arithmetic.

Knows box codes and scales, as functions for a kernel; knows no memory. Imports Triton. Widths are
data and no part of the code: layers differ in them, and building a kernel for each would take
minutes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nexusquant.lattice.box_code import CENTRE_OFFSET, ODD_COSET_SHIFT
from nexusquant.lattice.log_scale import (
    CODE_OF_ONE,
    LOWEST_EXPONENT,
    ROUNDING_STEPS,
    SPREAD,
    STEEPNESS,
)
from nexusquant.lattice.quantizer import LEAST_RESCALE, MOST_RESCALE, SCALE_FACTORS

FIRST_OFFSET, OFFSET = tl.constexpr(CENTRE_OFFSET[0]), tl.constexpr(CENTRE_OFFSET[1])
FIRST_SHIFT, SHIFT = tl.constexpr(ODD_COSET_SHIFT[0]), tl.constexpr(ODD_COSET_SHIFT[1])
LOW, MIDDLE, HIGH = (tl.constexpr(factor) for factor in SCALE_FACTORS)
LEAST_GROWTH, MOST_GROWTH = tl.constexpr(LEAST_RESCALE), tl.constexpr(MOST_RESCALE)
WIDEST, STEEP, ONE = (tl.constexpr(number) for number in (SPREAD, STEEPNESS, CODE_OF_ONE))
FINE_STEPS = tl.constexpr(ROUNDING_STEPS)
LOWEST = tl.constexpr(LOWEST_EXPONENT)
LN2 = tl.constexpr(0.6931471805599453)
# adding and taking off 1.5 * 2^23 leaves a float32 below 2^22 rounded to even
ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def eight_of(y):
    """[TILE, GROUPS, 2, 2, 2] -> the eight coordinates of every group, each [TILE, GROUPS].

    So a thread has all eight of a group, and nothing but sums over groups crosses threads.
    """
    even, odd = tl.split(y)
    y04, y26 = tl.split(even)
    y15, y37 = tl.split(odd)
    y0, y4 = tl.split(y04)
    y2, y6 = tl.split(y26)
    y1, y5 = tl.split(y15)
    y3, y7 = tl.split(y37)
    return y0, y1, y2, y3, y4, y5, y6, y7


@triton.jit
def best_code(y, width, metric, unit, num_coded):
    """Words and scales that leave the least error.

    Returns the first four fields of each group and its last four, a byte each, [TILE, GROUPS],
    and the codes of scales, [TILE], as floats.
    """
    squares = _dot(y, y)
    energy = tl.sum(squares * metric, axis=1)
    rms = tl.sqrt(tl.sum(squares * unit, axis=1) / num_coded)
    best_error = tl.full(rms.shape, float("inf"), tl.float32)
    best_code = tl.zeros(rms.shape, tl.float32)
    best_low = tl.zeros(squares.shape, tl.int32)
    best_high = tl.zeros(squares.shape, tl.int32)
    for trial in range(3):
        factor = tl.where(trial == 0, LOW, tl.where(trial == 1, MIDDLE, HIGH))
        scale = _round_scale(rms * factor)
        fields, points = _nearest(y, (1.0 / scale)[:, None], width)
        aligned = tl.maximum(tl.sum(_dot(y, points) * metric, axis=1), 1e-12)
        growth = tl.minimum(tl.maximum(energy / (aligned * scale), LEAST_GROWTH), MOST_GROWTH)
        unbiased = scale * growth
        code = _encode_scale(unbiased)
        coded = tl.where(code == 0, 0.0, tl.exp2(_exponent_of(code)))
        rounding = coded - unbiased
        size = tl.sum(_dot(points, points) * metric, axis=1)
        error = (rounding * rounding + unbiased * unbiased) * size
        # the first trial counts also where its error has overflowed
        wins = (error < best_error) | (trial == 0)
        best_error = tl.where(wins, error, best_error)
        best_code = tl.where(wins, code, best_code)
        best_low = tl.where(wins[:, None], _four_bytes(fields, 0), best_low)
        best_high = tl.where(wins[:, None], _four_bytes(fields, 4), best_high)
    return best_low, best_high, tl.where(_encode_scale(rms) == 0, 0.0, best_code)


@triton.jit
def _nearest(y, inverse_scale, width):
    """Fields and the points they name, in steps: eight of [TILE, GROUPS] each."""
    # groups without bits are coded in one, and not stored
    half = (1 << (tl.maximum(width, 1) - 1)).to(tl.float32)
    top = 2 * half - 1
    even = ()
    odd = ()
    for i in tl.static_range(8):
        position = y[i] * inverse_scale + (half - (FIRST_OFFSET if i == 0 else OFFSET))
        even += (position,)
        odd += (position - (FIRST_SHIFT if i == 0 else SHIFT),)
    even_fields, even_place, even_step, even_distance = _nearest_with_parity(even, 0, top)
    odd_fields, odd_place, odd_step, odd_distance = _nearest_with_parity(odd, 1, top)
    is_odd = odd_distance < even_distance
    place = tl.where(is_odd, odd_place, even_place)
    step = tl.where(is_odd, odd_step, even_step)
    fields = ()
    points = ()
    for i in tl.static_range(8):
        field = tl.where(is_odd, odd_fields[i], even_fields[i])
        field += tl.where(place == i, step, 0.0)
        shift = tl.where(is_odd, FIRST_SHIFT if i == 0 else SHIFT, 0.0)
        fields += (field,)
        points += (field - half + (FIRST_OFFSET if i == 0 else OFFSET) + shift,)
    return fields, points


@triton.jit
def _nearest_with_parity(position, parity, top):
    """Fields nearest to eight positions; which of them has to move by which step; the distance.

    The place is 8 if the sum of the fields has this parity already; the distance is squared.
    """
    fields = ()
    total = tl.zeros(position[0].shape, tl.float32)
    distance = tl.zeros(position[0].shape, tl.float32)
    most = tl.full(position[0].shape, -float("inf"), tl.float32)
    place = tl.zeros(position[0].shape, tl.int32)
    step = tl.zeros(position[0].shape, tl.float32)
    for i in tl.static_range(8):
        # kept off the walls, a coordinate always leans to its second-best field inside the box
        inside = tl.minimum(tl.maximum(position[i], 0.25), top - 0.25)
        field = _round(inside)
        residual = position[i] - field
        lean = tl.where(inside > field, 1.0, -1.0)
        gain = lean * residual
        is_most = gain > most
        most = tl.where(is_most, gain, most)
        place = tl.where(is_most, i, place)
        step = tl.where(is_most, lean, step)
        total += field
        distance += residual * residual
        fields += (field,)
    is_wrong = (total.to(tl.int32) & 1) != parity
    # taking the second-best field instead of the best adds 1 - 2 * gain to the squared distance
    distance += tl.where(is_wrong, 1 - 2 * most, 0.0)
    return fields, tl.where(is_wrong, place, 8), step, distance


@triton.jit
def _four_bytes(fields, first: tl.constexpr):
    """Four fields in one word, the first of them lowest."""
    word = fields[first].to(tl.int32)
    for i in tl.static_range(1, 4):
        word |= fields[first + i].to(tl.int32) << (8 * i)
    return word


@triton.jit
def digits_of(low, high, digit: tl.constexpr):
    """A digit of two bits of eight fields, as `lattice.packing` makes a word of them."""
    return _gather_pairs(low >> (2 * digit)) | (_gather_pairs(high >> (2 * digit)) << 8)


@triton.jit
def top_bits_of(low, high, width):
    """The highest bit of eight fields in one byte."""
    shift = tl.maximum(width - 1, 0)
    return _gather_bits(low >> shift) | (_gather_bits(high >> shift) << 4)


@triton.jit
def _gather_pairs(four):
    """The two lowest bits of four bytes, together."""
    pairs = four & 0x03030303
    return (pairs | (pairs >> 6) | (pairs >> 12) | (pairs >> 18)) & 0xFF


@triton.jit
def _gather_bits(four):
    """The lowest bit of four bytes, together."""
    bits = four & 0x01010101
    return (bits | (bits >> 7) | (bits >> 14) | (bits >> 21)) & 0xF


@triton.jit
def _dot(one, other):
    """Inner product over the eight."""
    total = one[0] * other[0]
    for i in tl.static_range(1, 8):
        total += one[i] * other[i]
    return total


@triton.jit
def _round(x):
    return (x + ROUNDER) - ROUNDER


@triton.jit
def _round_scale(scale):
    steps = _round(tl.log2(tl.maximum(scale, tl.exp2(LOWEST * 1.0))) * FINE_STEPS)
    return tl.exp2(steps / FINE_STEPS)


@triton.jit
def _encode_scale(scale):
    """The code as a float."""
    x = tl.log2(scale) / WIDEST
    # asinh of the size, where nothing cancels
    size = tl.log2(tl.abs(x) + tl.sqrt(x * x + 1.0)) * LN2
    code = _round(tl.where(x < 0, -size, size) * STEEP) + ONE
    code = tl.minimum(tl.maximum(code, 1.0), 255.0)
    return tl.where(scale < tl.exp2(LOWEST - 1.0), 0.0, code)


@triton.jit
def _exponent_of(code):
    """Binary logarithm of the scale that a code from 1 on stands for."""
    growth = tl.exp2((code - ONE) / (STEEP * LN2))
    return (growth - 1.0 / growth) * (WIDEST / 2)
