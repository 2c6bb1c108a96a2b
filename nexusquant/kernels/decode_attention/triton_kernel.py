"""Attention of one token's queries over packed pages, in parts of the text. Imports Triton.

`reference.py` says what the parts have to give together. The codes of a page are split into
digits, small integers that tensor cores multiply by the rows of the basis; the keys that come out
are turned and compared with the queries. The weighted sum of values stays in digits until the parts
are joined.

No key is turned by its whole position: within a page it is turned by what its position is past the
page's first, and the query is turned back by that first one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nexusquant.kernels.decode_attention.triton_keys import key_rows, page_keys
from nexusquant.kernels.decode_attention.triton_sums import add_page, empty_sums, store_sums
from nexusquant.kernels.decode_attention.triton_turning import cos, rotate, sin, within_a_turn
from nexusquant.lattice.log_scale import CODE_OF_ONE, SPREAD, STEEPNESS

LN2 = tl.constexpr(0.6931471805599453)
ONE, WIDEST, STEEP = (tl.constexpr(number) for number in (CODE_OF_ONE, SPREAD, STEEPNESS))
NOTHING = tl.constexpr(-1e30)
# below the binary logarithm of every scale but 0
LOWEST = tl.constexpr(-14.0)


@triton.jit
def part_kernel(
    query,
    key_codes,
    key_scales,
    value_codes,
    value_scales,
    page_table,
    table_head,
    lengths,
    positions,
    positions_head,
    first_position,
    basis,
    row_units,
    mean,
    digit_rows,
    digit_sizes,
    columns,
    frequencies,
    rotary_scaling,
    logit_scaling,
    softcap,
    maxima,
    totals,
    weight_sums,
    weighted,
    pages_per_part,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    GROUPED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    NUM_KEY_WORDS: tl.constexpr,
    KEY_WORDS: tl.constexpr,
    NUM_KEY_SINGLES: tl.constexpr,
    KEY_SINGLES: tl.constexpr,
    VALUE_BYTES: tl.constexpr,
    NUM_VALUE_WORDS: tl.constexpr,
    VALUE_WORDS: tl.constexpr,
    NUM_VALUE_SINGLES: tl.constexpr,
    VALUE_SINGLES: tl.constexpr,
    HAS_MEAN: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    IS_FAST: tl.constexpr,
):
    """One part of one KV head's pages; programs are (KV head, part).

    Reference: `reference.packed_attention`. Columns come as two halves that turn together; those
    without rotation have frequency 0. IS_WHOLE: no token is missing from `first_position` on.
    """
    head = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    place = head * tl.num_programs(1) + part
    length = tl.load(lengths + head)
    slot = tl.arange(0, PAGE)
    half = tl.arange(0, HALF)
    left = tl.load(columns + half)
    right = tl.load(columns + HALF + half)
    speed = tl.load(frequencies + half)
    growth = tl.where(speed != 0, rotary_scaling, 1.0)
    basis += head * DIM * DIM
    row_units += head * DIM
    left_rows = key_rows(
        *(basis, row_units, digit_rows, digit_sizes, left, growth),
        *(KEY_WORDS, KEY_SINGLES, NUM_KEY_SINGLES, DIM),
    )
    right_rows = key_rows(
        *(basis, row_units, digit_rows, digit_sizes, right, growth),
        *(KEY_WORDS, KEY_SINGLES, NUM_KEY_SINGLES, DIM),
    )
    if HAS_MEAN:
        mean += head * DIM
        mean_left = (tl.load(mean + left, mask=left >= 0, other=0.0) * growth)[None, :]
        mean_right = (tl.load(mean + right, mask=right >= 0, other=0.0) * growth)[None, :]
    query += head * GROUPED * DIM
    query_left = _queries(query, left, logit_scaling, GROUPED, QUERIES, DIM)
    query_right = _queries(query, right, logit_scaling, GROUPED, QUERIES, DIM)

    maximum = tl.full((QUERIES,), NOTHING, tl.float32)
    total = tl.zeros((PAGE, QUERIES), tl.float32)
    weight_sum = tl.zeros((PAGE, QUERIES), tl.float32)
    sums = empty_sums(VALUE_WORDS, VALUE_SINGLES, QUERIES)
    if IS_WHOLE:
        angle = slot.to(tl.float32)[:, None] * speed[None, :]
        cosine = cos(angle, IS_FAST).to(tl.float16)
        sine = sin(angle, IS_FAST).to(tl.float16)

    first_page = part * pages_per_part
    end_page = tl.minimum(first_page + pages_per_part, tl.cdiv(length, PAGE)).to(tl.int32)
    for index in range(first_page, end_page):
        page = tl.load(page_table + head * table_head + index).to(tl.int64)
        is_there = index * PAGE + slot < length
        if IS_WHOLE:
            anchor = first_position + index * PAGE
            token = anchor + slot
        else:
            of_page = positions + head * positions_head + index * PAGE
            anchor = tl.load(of_page)
            token = tl.load(of_page + slot, mask=is_there, other=0)
            angle = (token - anchor).to(tl.float32)[:, None] * speed[None, :]
            cosine = cos(angle, IS_FAST).to(tl.float16)
            sine = sin(angle, IS_FAST).to(tl.float16)
        sign = (1 - 2 * (token & 1)).to(tl.float32)

        turn = within_a_turn(anchor.to(tl.float32) * speed)
        back_left, back_right = _turn_back(query_left, query_right, turn, IS_FAST)
        keys_left, keys_right = page_keys(
            *(key_codes + page * (PAGE * KEY_BYTES), slot, left_rows, right_rows, KEY_BYTES),
            *(NUM_KEY_WORDS, KEY_WORDS, NUM_KEY_SINGLES, KEY_SINGLES, PAGE, IS_FAST),
        )
        turned_left, turned_right = rotate(keys_left, keys_right, cosine, sine, IS_FAST)
        logits = tl.dot(turned_left, tl.trans(back_left.to(tl.float16)))
        logits = tl.dot(turned_right, tl.trans(back_right.to(tl.float16)), logits)
        scale = sign * tl.exp2(_exponent(tl.load(key_scales + page * PAGE + slot)))
        logits *= scale[:, None]
        if HAS_MEAN:
            # it turns like a key, but is the same for all: the query meets it once a page
            along = back_left * mean_left + back_right * mean_right
            across = back_right * mean_left - back_left * mean_right
            logits = tl.dot(cosine, tl.trans(along.to(tl.float16)), logits)
            logits = tl.dot(sine, tl.trans(across.to(tl.float16)), logits)
        if HAS_SOFTCAP:
            raised = tl.exp2(logits * (2.0 / LN2) / softcap)
            logits = (1.0 - 2.0 / (1.0 + raised)) * softcap
        logits = tl.where(is_there[:, None], logits / LN2, float("-inf"))

        exponent = _exponent(tl.load(value_scales + page * PAGE + slot))[:, None]
        maximum, shrink, total, weights = _weigh(logits, exponent, maximum, total)
        weights *= sign[:, None]
        weight_sum = weight_sum * shrink + weights
        sums = add_page(
            *(sums, weights.to(tl.float16), shrink, value_codes + page * (PAGE * VALUE_BYTES)),
            *(slot, VALUE_BYTES, NUM_VALUE_WORDS, VALUE_WORDS, NUM_VALUE_SINGLES, VALUE_SINGLES),
            *(PAGE, IS_FAST),
        )

    lane = place * QUERIES + tl.arange(0, QUERIES)
    tl.store(maxima + lane, maximum)
    tl.store(totals + lane, tl.sum(total, axis=0))
    tl.store(weight_sums + lane, tl.sum(weight_sum, axis=0))
    store_sums(weighted, place, sums, VALUE_WORDS, NUM_VALUE_SINGLES, VALUE_SINGLES, QUERIES)


@triton.jit
def _weigh(logits, exponent, maximum, total):
    """The softmax's step; weights hold the values' scales, in float32.

    With the scales in the maximum, no weight overflows float16.
    """
    highest = tl.max(logits + tl.maximum(exponent, LOWEST), axis=0)
    new_maximum = tl.maximum(maximum, highest)
    shrink = tl.exp2(maximum - new_maximum)[None, :]
    total = total * shrink + tl.exp2(logits - new_maximum[None, :])
    return new_maximum, shrink, total, tl.exp2(logits + exponent - new_maximum[None, :])


@triton.jit
def _queries(
    query, column, scaling, GROUPED: tl.constexpr, QUERIES: tl.constexpr, DIM: tl.constexpr
):
    """Some columns of the queries of one KV head. [QUERIES, columns], float32."""
    lane = tl.arange(0, QUERIES)[:, None]
    is_there = (lane < GROUPED) & (column >= 0)[None, :]
    found = tl.load(query + lane * DIM + column[None, :], mask=is_there, other=0.0)
    return found.to(tl.float32) * scaling


@triton.jit
def _turn_back(left, right, turn, IS_FAST: tl.constexpr):
    cosine = cos(turn, IS_FAST)[None, :]
    sine = sin(turn, IS_FAST)[None, :]
    return left * cosine + right * sine, right * cosine - left * sine


@triton.jit
def _exponent(code):
    """Binary logarithm of the scale that a code stands for."""
    growth = tl.exp2((code.to(tl.float32) - ONE) / (STEEP * LN2))
    return tl.where(code == 0, float("-inf"), (growth - 1.0 / growth) * (WIDEST / 2))
