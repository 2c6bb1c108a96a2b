"""Angles, sines and the turning of pairs, as functions for a kernel. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

# 2 pi as the nearest float32 and what is left of it
TURNS, TURN, REST_OF_TURN = (
    tl.constexpr(number) for number in (0.15915494309189535, 6.2831854820251465, -1.7484556e-7)
)

ROTATE_ASM = tl.constexpr("""{
.reg .b32 t;
mul.rn.f16x2 t, $3, $5;
neg.f16x2 t, t;
fma.rn.f16x2 $0, $2, $4, t;
mul.rn.f16x2 t, $2, $5;
fma.rn.f16x2 $1, $3, $4, t;
}""")


@triton.jit
def within_a_turn(angle):
    """The angle less whole turns, to the last bits of what it was."""
    number = tl.floor(angle * TURNS + 0.5)
    return tl.fma(-number, REST_OF_TURN, tl.fma(-number, TURN, angle))


@triton.jit
def rotate(left, right, cosine, sine, IS_FAST: tl.constexpr):
    """Turn pairs; all float16. Two lanes at a time, which the compiler does not do by itself."""
    if IS_FAST:
        return tl.inline_asm_elementwise(
            ROTATE_ASM,
            "=&r,=&r,r,r,r,r",
            [left, right, cosine, sine],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
    return left * cosine - right * sine, right * cosine + left * sine


@triton.jit
def cos(angle, IS_FAST: tl.constexpr):
    """Cosine; fast, its error grows with the angle: a few 1e-7 within a turn."""
    if IS_FAST:
        return tl.inline_asm_elementwise(
            "cos.approx.ftz.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.cos(angle)


@triton.jit
def sin(angle, IS_FAST: tl.constexpr):
    """Sine; see `cos`."""
    if IS_FAST:
        return tl.inline_asm_elementwise(
            "sin.approx.ftz.f32 $0, $1;", "=f,f", [angle], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.sin(angle)
