"""The weighted sum of values in digits, as functions for a kernel. Imports Triton.

Sums are four tensors: of the digits of words, of their parities, and the same for single bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nexusquant.kernels.decode_attention.triton_digits import digits_of_singles, digits_of_words


@triton.jit
def empty_sums(WORDS: tl.constexpr, SINGLES: tl.constexpr, QUERIES: tl.constexpr):
    """Sums over nothing."""
    # a matrix product has 16 rows at least
    ODD: tl.constexpr = SINGLES if SINGLES > 16 else 16
    return (
        tl.zeros((WORDS * 8, QUERIES), tl.float32),
        tl.zeros((WORDS, QUERIES), tl.float32),
        tl.zeros((SINGLES * 8, QUERIES), tl.float32),
        tl.zeros((ODD, QUERIES), tl.float32),
    )


@triton.jit
def add_page(
    sums,
    weights,
    shrink,
    codes,
    slot,
    BYTES: tl.constexpr,
    NUM_WORDS: tl.constexpr,
    WORDS: tl.constexpr,
    NUM_SINGLES: tl.constexpr,
    SINGLES: tl.constexpr,
    PAGE: tl.constexpr,
    IS_FAST: tl.constexpr,
):
    """Sums times `shrink` [1, QUERIES] and a page's values times `weights` [PAGE, QUERIES]."""
    words, parity = digits_of_words(codes, slot, BYTES, NUM_WORDS, WORDS, PAGE, IS_FAST)
    of_words = tl.dot(tl.trans(words), weights, sums[0] * shrink)
    of_parity = tl.dot(tl.trans(parity), weights, sums[1] * shrink)
    of_singles = sums[2]
    of_odd = sums[3]
    if NUM_SINGLES > 0:
        singles, odd = digits_of_singles(
            codes + 2 * NUM_WORDS, slot, BYTES, NUM_SINGLES, SINGLES, PAGE, IS_FAST
        )
        of_singles = tl.dot(tl.trans(singles), weights, of_singles * shrink)
        of_odd = tl.dot(tl.trans(odd), weights, of_odd * shrink)
    return of_words, of_parity, of_singles, of_odd


@triton.jit
def store_sums(
    target,
    place,
    sums,
    WORDS: tl.constexpr,
    NUM_SINGLES: tl.constexpr,
    SINGLES: tl.constexpr,
    QUERIES: tl.constexpr,
):
    """Write the rows of all sums that there are, one after the other, to a place of their size."""
    ODD: tl.constexpr = SINGLES if SINGLES > 16 else 16
    ROWS: tl.constexpr = 9 * WORDS + (8 * SINGLES + ODD if NUM_SINGLES > 0 else 0)
    target += place * ROWS * QUERIES + tl.arange(0, QUERIES)[None, :]
    tl.store(target + tl.arange(0, 8 * WORDS)[:, None] * QUERIES, sums[0])
    target += 8 * WORDS * QUERIES
    tl.store(target + tl.arange(0, WORDS)[:, None] * QUERIES, sums[1])
    if NUM_SINGLES > 0:
        target += WORDS * QUERIES
        tl.store(target + tl.arange(0, 8 * SINGLES)[:, None] * QUERIES, sums[2])
        target += 8 * SINGLES * QUERIES
        tl.store(target + tl.arange(0, ODD)[:, None] * QUERIES, sums[3])
