"""Packed digits to small floats that tensor cores can multiply. Imports Triton.

A digit is taken out of its word where it stands: put under the exponent of 1024 in float16, the
bits of digit i are 4^i times the digit, which is taken back from the rows that it is multiplied by
(see `digit_tables.py`). So one logical operation and one subtraction make two values, and nothing
is converted.
"""

from __future__ import annotations

import triton
import triton.language as tl

# truth table of "first and second, or third"
_AND_OR = "0xEA"


def _two_lanes(bits: int) -> str:
    return f"0x{bits:04X}{bits:04X}"


def _take_out(masks: list[tuple[int, str]]) -> str:
    lines = []
    for output, (mask, source) in enumerate(masks):
        lines.append(f"lop3.b32 ${output}, {source}, {_two_lanes(mask)}, 0x64006400, {_AND_OR};")
        lines.append(f"sub.rn.f16x2 ${output}, ${output}, one;")
    return "\n".join(lines)


def _fold(shifts: tuple[int, ...], start: str) -> str:
    folds = "".join(f"shr.b32 f, p, {shift};\nxor.b32 p, p, f;\n" for shift in shifts)
    return (
        "{\n.reg .b32 f, p;\n"
        + start
        + folds
        + "and.b32 p, p, 0x00010001;\nmul.lo.u32 $0, p, 0x3C00;\n}"
    )


WORDS_ASM = tl.constexpr(
    "{\n.reg .b32 s, one;\nmov.b32 one, 0x64006400;\nshr.b32 s, $8, 6;\n"
    + _take_out([(3 << 2 * i, "$8") for i in range(5)] + [(3 << 2 * i, "s") for i in (2, 3, 4)])
    + "\n}"
)
SINGLES_ASM = tl.constexpr(
    "{\n.reg .b32 one;\nmov.b32 one, 0x64006400;\n"
    + _take_out([(1 << i, "$8") for i in range(8)])
    + "\n}"
)
CONSTRAINTS = tl.constexpr(",".join(["=&r"] * 8 + ["r"]))
WORD_PARITY_ASM = tl.constexpr(_fold((8, 4, 2), "and.b32 p, $1, 0x55555555;\n"))
SINGLE_PARITY_ASM = tl.constexpr(_fold((4, 2, 1), "mov.b32 p, $1;\n"))


@triton.jit
def digits_of_words(
    codes,
    slot,
    BYTES: tl.constexpr,
    COUNT: tl.constexpr,
    WORDS: tl.constexpr,
    PAGE: tl.constexpr,
    IS_FAST: tl.constexpr,
):
    """Digits [PAGE, WORDS * 8] and parities of the digits' sums [PAGE, WORDS], float16."""
    word = tl.arange(0, WORDS)
    is_there = (word < COUNT)[None, :]
    if BYTES % 2 == 0:
        place = slot[:, None] * (BYTES // 2) + word[None, :]
        packed = tl.load(codes.to(tl.pointer_type(tl.int16)) + place, mask=is_there, other=0)
    else:
        place = slot[:, None] * BYTES + 2 * word[None, :]
        low = tl.load(codes + place, mask=is_there, other=0).to(tl.int16)
        packed = low | (tl.load(codes + place + 1, mask=is_there, other=0).to(tl.int16) << 8)
    if IS_FAST:
        d0, d1, d2, d3, d4, d5, d6, d7 = tl.inline_asm_elementwise(
            WORDS_ASM, CONSTRAINTS, [packed], dtype=(tl.float16,) * 8, is_pure=True, pack=2
        )
        parity = tl.inline_asm_elementwise(
            WORD_PARITY_ASM, "=r,r", [packed], dtype=tl.float16, is_pure=True, pack=2
        )
    else:
        wide = packed.to(tl.int32)
        d0 = (wide & 0x3).to(tl.float16)
        d1 = (wide & 0xC).to(tl.float16)
        d2 = (wide & 0x30).to(tl.float16)
        d3 = (wide & 0xC0).to(tl.float16)
        d4 = (wide & 0x300).to(tl.float16)
        d5 = ((wide >> 6) & 0x30).to(tl.float16)
        d6 = ((wide >> 6) & 0xC0).to(tl.float16)
        d7 = ((wide >> 6) & 0x300).to(tl.float16)
        odd = wide & 0x5555
        odd = odd ^ (odd >> 8)
        odd = odd ^ (odd >> 4)
        parity = ((odd ^ (odd >> 2)) & 1).to(tl.float16)
    digits = _digit_by_digit(d0, d1, d2, d3, d4, d5, d6, d7)
    return tl.reshape(digits, (PAGE, WORDS * 8)), parity


@triton.jit
def digits_of_singles(
    codes,
    slot,
    BYTES: tl.constexpr,
    COUNT: tl.constexpr,
    SINGLES: tl.constexpr,
    PAGE: tl.constexpr,
    IS_FAST: tl.constexpr,
):
    """Digits [PAGE, SINGLES * 8] and parities of the digits' sums [PAGE, SINGLES], float16."""
    byte = tl.arange(0, SINGLES)
    place = slot[:, None] * BYTES + byte[None, :]
    packed = tl.load(codes + place, mask=(byte < COUNT)[None, :], other=0).to(tl.int16)
    if IS_FAST:
        d0, d1, d2, d3, d4, d5, d6, d7 = tl.inline_asm_elementwise(
            SINGLES_ASM, CONSTRAINTS, [packed], dtype=(tl.float16,) * 8, is_pure=True, pack=2
        )
        parity = tl.inline_asm_elementwise(
            SINGLE_PARITY_ASM, "=r,r", [packed], dtype=tl.float16, is_pure=True, pack=2
        )
    else:
        wide = packed.to(tl.int32)
        d0 = (wide & 0x1).to(tl.float16)
        d1 = (wide & 0x2).to(tl.float16)
        d2 = (wide & 0x4).to(tl.float16)
        d3 = (wide & 0x8).to(tl.float16)
        d4 = (wide & 0x10).to(tl.float16)
        d5 = (wide & 0x20).to(tl.float16)
        d6 = (wide & 0x40).to(tl.float16)
        d7 = (wide & 0x80).to(tl.float16)
        odd = wide ^ (wide >> 4)
        odd = odd ^ (odd >> 2)
        parity = ((odd ^ (odd >> 1)) & 1).to(tl.float16)
    if SINGLES < 16:
        # a matrix product sums over 16 at least
        parity = tl.permute(tl.join(parity, tl.zeros_like(parity)), (0, 2, 1))
        parity = tl.reshape(parity, (PAGE, SINGLES * 2))
    digits = _digit_by_digit(d0, d1, d2, d3, d4, d5, d6, d7)
    return tl.reshape(digits, (PAGE, SINGLES * 8)), parity


@triton.jit
def _digit_by_digit(d0, d1, d2, d3, d4, d5, d6, d7):
    """The first digits of all words, then the second ones. [tokens, 2, 2, 2, words]."""
    even = tl.join(tl.join(d0, d4), tl.join(d2, d6))
    odd = tl.join(tl.join(d1, d5), tl.join(d3, d7))
    return tl.permute(tl.join(even, odd), (0, 2, 3, 4, 1))
