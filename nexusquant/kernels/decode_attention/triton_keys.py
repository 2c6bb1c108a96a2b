"""Keys of a page out of their digits, as functions for a kernel. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from nexusquant.kernels.decode_attention.triton_digits import digits_of_singles, digits_of_words


@triton.jit
def key_rows(
    basis,
    row_units,
    digit_rows,
    digit_sizes,
    column,
    growth,
    WORDS: tl.constexpr,
    SINGLES: tl.constexpr,
    NUM_SINGLES: tl.constexpr,
    DIM: tl.constexpr,
):
    """Rows for digits of words and of bytes in one half of the columns; see `_rows`."""
    DIGITS: tl.constexpr = 8 * (WORDS + SINGLES)
    words, parity, offset = _rows(
        basis, row_units, digit_rows, digit_sizes, 0, column, growth, WORDS, DIGITS, DIM
    )
    singles = words
    odd = parity
    if NUM_SINGLES > 0:
        start: tl.constexpr = 8 * WORDS
        singles, odd, more = _rows(
            basis, row_units, digit_rows, digit_sizes, start, column, growth, SINGLES, DIGITS, DIM
        )
        offset += more
    return words, parity, singles, odd, offset


@triton.jit
def page_keys(
    codes,
    slot,
    left_rows,
    right_rows,
    BYTES: tl.constexpr,
    NUM_WORDS: tl.constexpr,
    WORDS: tl.constexpr,
    NUM_SINGLES: tl.constexpr,
    SINGLES: tl.constexpr,
    PAGE: tl.constexpr,
    IS_FAST: tl.constexpr,
):
    """Both halves of a page's keys, without scale and mean. [PAGE, columns] each, float16."""
    words, parity = digits_of_words(codes, slot, BYTES, NUM_WORDS, WORDS, PAGE, IS_FAST)
    left = tl.dot(words, left_rows[0])
    right = tl.dot(words, right_rows[0])
    left = tl.dot(parity, left_rows[1], left)
    right = tl.dot(parity, right_rows[1], right)
    if NUM_SINGLES > 0:
        singles, odd = digits_of_singles(
            codes + 2 * NUM_WORDS, slot, BYTES, NUM_SINGLES, SINGLES, PAGE, IS_FAST
        )
        left = tl.dot(singles, left_rows[2], left)
        right = tl.dot(singles, right_rows[2], right)
        left = tl.dot(odd, left_rows[3], left)
        right = tl.dot(odd, right_rows[3], right)
    left += left_rows[4][None, :]
    right += right_rows[4][None, :]
    return left.to(tl.float16), right.to(tl.float16)


@triton.jit
def _rows(
    basis,
    row_units,
    digit_rows,
    digit_sizes,
    first: tl.constexpr,
    column,
    growth,
    COUNT: tl.constexpr,
    DIGITS: tl.constexpr,
    DIM: tl.constexpr,
):
    """What digits are multiplied by, in some columns.

    Returns the rows of digits [8 * COUNT, columns] and of the parities of their sums
    [COUNT or 16, columns], float16; and what fields of 0 stand for [columns], float32.
    """
    index = first + tl.arange(0, 8 * COUNT)
    row = tl.load(digit_rows + index)
    is_row = row >= 0
    entries = tl.load(
        basis + row[:, None] * DIM + column[None, :],
        mask=is_row[:, None] & (column >= 0)[None, :],
        other=0,
    )
    unit = tl.load(row_units + row, mask=is_row, other=0.0)
    rows = entries.to(tl.float32) * unit[:, None] * growth[None, :]
    factor = tl.load(digit_sizes + index)[:, None]
    shift = tl.load(digit_sizes + DIGITS + index)[:, None]
    offset = tl.load(digit_sizes + 2 * DIGITS + index)[:, None]
    HALF: tl.constexpr = column.shape[0]
    parity = tl.sum(tl.reshape(rows * shift, (8, COUNT, HALF)), axis=0)
    if COUNT < 16:
        # a matrix product sums over 16 at least
        parity = tl.permute(tl.join(parity, tl.zeros_like(parity)), (2, 0, 1))
        parity = tl.reshape(parity, (2 * COUNT, HALF))
    exact = rows * factor
    digits = exact.to(tl.float16)
    # what rounding does to the middle of all digits is the same for every key: taken back here
    middle = tl.load(digit_sizes + 3 * DIGITS + index)[:, None]
    offset = tl.sum(rows * offset + (exact - digits.to(tl.float32)) * middle, axis=0)
    return digits, parity.to(tl.float16), offset
