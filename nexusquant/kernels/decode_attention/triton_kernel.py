"""Attention of one token's queries over packed pages, part of the text by part. Imports Triton.

`reference.py` says what it has to give. The codes of a tile of keys are split into digits, which are
small integers that tensor cores multiply by the rows of the basis; what comes out is rotated and
compared with the queries. The weighted sum of values stays in digits until every part is done.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nexusquant.kernels.decode_attention.triton_digits import digits_of_singles, digits_of_words
from nexusquant.lattice.log_scale import CODE_OF_ONE, SPREAD, STEEPNESS

LN2 = tl.constexpr(0.6931471805599453)
ONE, WIDEST, STEEP = (tl.constexpr(number) for number in (CODE_OF_ONE, SPREAD, STEEPNESS))
NOTHING = tl.constexpr(-1e30)


@triton.jit
def split_kernel(
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
    key_rows,
    key_factors,
    parity_groups,
    offsets,
    columns,
    frequencies,
    rotary_scaling,
    logit_scaling,
    softcap,
    maxima,
    totals,
    value_maxima,
    weighted,
    weight_sums,
    pages_per_part,
    num_coded,
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

    Columns come as two halves that turn together; those without rotation have frequency 0.
    """
    head = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    num_parts = tl.num_programs(1)
    length = tl.load(lengths + head)
    slot = tl.arange(0, PAGE)
    lane = tl.arange(0, QUERIES)
    half = tl.arange(0, HALF)
    left = tl.load(columns + half)
    right = tl.load(columns + HALF + half)
    speed = tl.load(frequencies + half)
    turned = tl.where(speed != 0, rotary_scaling, 1.0)
    basis += head * DIM * DIM
    row_units += head * DIM
    key_rows_of_words = tl.arange(0, KEY_WORDS * 8)
    key_rows_of_singles = KEY_WORDS * 8 + tl.arange(0, KEY_SINGLES * 8)

    words_left = _rows(basis, row_units, key_rows, key_factors, key_rows_of_words, left, turned, DIM)
    words_right = _rows(basis, row_units, key_rows, key_factors, key_rows_of_words, right, turned, DIM)
    word_parity = tl.arange(0, KEY_WORDS)
    parity_left = _parity_rows(basis, row_units, parity_groups, word_parity, left, turned, DIM)
    parity_right = _parity_rows(basis, row_units, parity_groups, word_parity, right, turned, DIM)
    if NUM_KEY_SINGLES > 0:
        singles_left = _rows(basis, row_units, key_rows, key_factors, key_rows_of_singles, left, turned, DIM)
        singles_right = _rows(basis, row_units, key_rows, key_factors, key_rows_of_singles, right, turned, DIM)
        single_parity = KEY_WORDS + tl.arange(0, KEY_SINGLES)
        odd_left = _parity_rows(basis, row_units, parity_groups, single_parity, left, turned, DIM)
        odd_right = _parity_rows(basis, row_units, parity_groups, single_parity, right, turned, DIM)
    offset_left = _offset_row(basis, row_units, offsets, num_coded, left, turned, DIM)
    offset_right = _offset_row(basis, row_units, offsets, num_coded, right, turned, DIM)
    mean_left = tl.zeros((HALF,), tl.float32)
    mean_right = tl.zeros((HALF,), tl.float32)
    if HAS_MEAN:
        mean_left = tl.load(mean + head * DIM + left, mask=left >= 0, other=0.0) * turned
        mean_right = tl.load(mean + head * DIM + right, mask=right >= 0, other=0.0) * turned

    is_query = (lane < GROUPED)[:, None]
    query += (head * GROUPED + lane.to(tl.int64))[:, None] * DIM
    query_left = tl.load(query + left[None, :], mask=is_query & (left >= 0)[None, :], other=0.0)
    query_right = tl.load(query + right[None, :], mask=is_query & (right >= 0)[None, :], other=0.0)
    query_left = query_left.to(tl.float32) * logit_scaling
    query_right = query_right.to(tl.float32) * logit_scaling

    maximum = tl.full((QUERIES,), NOTHING, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    value_maximum = tl.full((QUERIES,), NOTHING, tl.float32)
    weight_sum = tl.zeros((QUERIES,), tl.float32)
    of_words = tl.zeros((VALUE_WORDS * 8, QUERIES), tl.float32)
    of_parity = tl.zeros((VALUE_WORDS, QUERIES), tl.float32)
    if NUM_VALUE_SINGLES > 0:
        of_singles = tl.zeros((VALUE_SINGLES * 8, QUERIES), tl.float32)
        of_odd = tl.zeros((VALUE_SINGLES, QUERIES), tl.float32)

    if IS_WHOLE:
        angle = slot.to(tl.float32)[:, None] * speed[None, :]
        cosine = _cos(angle, IS_FAST)
        sine = _sin(angle, IS_FAST)

    first_page = part * pages_per_part
    end_page = tl.minimum(first_page + pages_per_part, tl.cdiv(length, PAGE))
    for page_index in range(first_page, end_page):
        page = tl.load(page_table + head * table_head + page_index).to(tl.int64)
        is_there = page_index * PAGE + slot < length
        if IS_WHOLE:
            anchor = first_position + page_index * PAGE
            token = anchor + slot
        else:
            token = tl.load(
                positions + head * positions_head + page_index * PAGE + slot, mask=is_there, other=0
            )
            anchor = tl.load(positions + head * positions_head + page_index * PAGE)
            angle = (token - anchor).to(tl.float32)[:, None] * speed[None, :]
            cosine = _cos(angle, IS_FAST)
            sine = _sin(angle, IS_FAST)
        sign = (1 - 2 * (token & 1)).to(tl.float32)

        codes = key_codes + page * (PAGE * KEY_BYTES)
        words, parity = digits_of_words(codes, slot, KEY_BYTES, NUM_KEY_WORDS, KEY_WORDS, PAGE, IS_FAST)
        keys_left = tl.dot(words, words_left)
        keys_left = tl.dot(parity, parity_left, keys_left)
        keys_right = tl.dot(words, words_right)
        keys_right = tl.dot(parity, parity_right, keys_right)
        if NUM_KEY_SINGLES > 0:
            singles, odd = digits_of_singles(
                codes + 2 * NUM_KEY_WORDS, slot, KEY_BYTES, NUM_KEY_SINGLES, KEY_SINGLES, PAGE, IS_FAST
            )
            keys_left = tl.dot(singles, singles_left, keys_left)
            keys_left = tl.dot(odd, odd_left, keys_left)
            keys_right = tl.dot(singles, singles_right, keys_right)
            keys_right = tl.dot(odd, odd_right, keys_right)
        scale = sign * tl.exp2(_exponent(tl.load(key_scales + page * PAGE + slot)))
        keys_left = (keys_left + offset_left[None, :]) * scale[:, None] + mean_left[None, :]
        keys_right = (keys_right + offset_right[None, :]) * scale[:, None] + mean_right[None, :]
        rotated_left = keys_left * cosine - keys_right * sine
        rotated_right = keys_right * cosine + keys_left * sine
        turn = anchor.to(tl.float32) * speed
        turn_cosine = tl.cos(turn)[None, :]
        turn_sine = tl.sin(turn)[None, :]
        back_left = query_left * turn_cosine + query_right * turn_sine
        back_right = query_right * turn_cosine - query_left * turn_sine
        logits = tl.dot(rotated_left.to(tl.float16), tl.trans(back_left.to(tl.float16)))
        logits = tl.dot(rotated_right.to(tl.float16), tl.trans(back_right.to(tl.float16)), logits)
        if HAS_SOFTCAP:
            logits = softcap * (2 / (1 + tl.exp2(-2 / LN2 * logits / softcap)) - 1)
        logits = tl.where(is_there[:, None], logits / LN2, float("-inf"))

        new_maximum = tl.maximum(maximum, tl.max(logits, axis=0))
        total = total * tl.exp2(maximum - new_maximum) + tl.sum(
            tl.exp2(logits - new_maximum[None, :]), axis=0
        )
        maximum = new_maximum
        # values have scales: their weights get a maximum of their own, so that none overflows
        exponents = logits + _exponent(tl.load(value_scales + page * PAGE + slot))[:, None]
        new_maximum = tl.maximum(value_maximum, tl.max(exponents, axis=0))
        shrink = tl.exp2(value_maximum - new_maximum)
        value_maximum = new_maximum
        weights = tl.exp2(exponents - new_maximum[None, :]) * sign[:, None]
        weight_sum = weight_sum * shrink + tl.sum(weights, axis=0)
        narrow = weights.to(tl.float16)
        codes = value_codes + page * (PAGE * VALUE_BYTES)
        words, parity = digits_of_words(
            codes, slot, VALUE_BYTES, NUM_VALUE_WORDS, VALUE_WORDS, PAGE, IS_FAST
        )
        of_words = tl.dot(tl.trans(words), narrow, of_words * shrink[None, :])
        of_parity = tl.dot(tl.trans(parity), narrow, of_parity * shrink[None, :])
        if NUM_VALUE_SINGLES > 0:
            singles, odd = digits_of_singles(
                codes + 2 * NUM_VALUE_WORDS,
                slot,
                VALUE_BYTES,
                NUM_VALUE_SINGLES,
                VALUE_SINGLES,
                PAGE,
                IS_FAST,
            )
            of_singles = tl.dot(tl.trans(singles), narrow, of_singles * shrink[None, :])
            of_odd = tl.dot(tl.trans(odd), narrow, of_odd * shrink[None, :])

    place = (head * num_parts + part) * QUERIES + lane
    tl.store(maxima + place, maximum)
    tl.store(totals + place, total)
    tl.store(value_maxima + place, value_maximum)
    tl.store(weight_sums + place, weight_sum)
    SINGLE_ROWS: tl.constexpr = VALUE_SINGLES * 9 if NUM_VALUE_SINGLES > 0 else 0
    ROWS: tl.constexpr = VALUE_WORDS * 9 + SINGLE_ROWS
    weighted += (head * num_parts + part) * ROWS * QUERIES + lane[None, :]
    row = tl.arange(0, VALUE_WORDS * 8)
    tl.store(weighted + row[:, None] * QUERIES, of_words)
    row = VALUE_WORDS * 8 + tl.arange(0, VALUE_WORDS)
    tl.store(weighted + row[:, None] * QUERIES, of_parity)
    if NUM_VALUE_SINGLES > 0:
        row = VALUE_WORDS * 9 + tl.arange(0, VALUE_SINGLES * 8)
        tl.store(weighted + row[:, None] * QUERIES, of_singles)
        row = VALUE_WORDS * 9 + VALUE_SINGLES * 8 + tl.arange(0, VALUE_SINGLES)
        tl.store(weighted + row[:, None] * QUERIES, of_odd)


@triton.jit
def _rows(basis, row_units, rows_table, factors, index, column, turned, DIM: tl.constexpr):
    """The basis rows of digits. [index, column], float16."""
    row = tl.load(rows_table + index)
    is_row = row >= 0
    factor = tl.load(factors + index) * tl.load(row_units + row, mask=is_row, other=0.0)
    entries = tl.load(
        basis + row[:, None] * DIM + column[None, :],
        mask=is_row[:, None] & (column >= 0)[None, :],
        other=0,
    )
    return (entries.to(tl.float32) * factor[:, None] * turned[None, :]).to(tl.float16)


@triton.jit
def _parity_rows(basis, row_units, groups, index, column, turned, DIM: tl.constexpr):
    """What an odd sum of a group's fields adds. [index, column], float16."""
    group = tl.load(groups + index)
    is_group = group >= 0
    total = tl.zeros((index.shape[0], column.shape[0]), tl.float32)
    for i in tl.static_range(8):
        row = group * 8 + i
        unit = tl.load(row_units + row, mask=is_group, other=0.0) * (-0.5 if i == 0 else 0.5)
        entries = tl.load(
            basis + row[:, None] * DIM + column[None, :],
            mask=is_group[:, None] & (column >= 0)[None, :],
            other=0,
        )
        total += entries.to(tl.float32) * unit[:, None]
    return (total * turned[None, :]).to(tl.float16)


@triton.jit
def _offset_row(basis, row_units, offsets, num_coded, column, turned, DIM: tl.constexpr):
    """What fields of 0 and an even sum stand for. [column], float32."""
    total = tl.zeros((column.shape[0],), tl.float32)
    for start in range(0, num_coded, 8):
        row = start + tl.arange(0, 8)
        unit = tl.load(row_units + row) * tl.load(offsets + row)
        entries = tl.load(
            basis + row[:, None] * DIM + column[None, :], mask=(column >= 0)[None, :], other=0
        )
        total += tl.sum(entries.to(tl.float32) * unit[:, None], axis=0)
    return total * turned


@triton.jit
def _exponent(code):
    """Binary logarithm of the scale that a code stands for."""
    growth = tl.exp2((code.to(tl.float32) - ONE) / (STEEP * LN2))
    return tl.where(code == 0, float("-inf"), (growth - 1.0 / growth) * (WIDEST / 2))


@triton.jit
def _cos(angle, IS_FAST: tl.constexpr):
    if IS_FAST:
        return tl.inline_asm_elementwise(
            "cos.approx.ftz.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.cos(angle)


@triton.jit
def _sin(angle, IS_FAST: tl.constexpr):
    if IS_FAST:
        return tl.inline_asm_elementwise(
            "sin.approx.ftz.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.sin(angle)
