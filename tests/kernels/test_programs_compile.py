"""The CUDA programs become machine code for every card that they are for, without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compiling import nvrtc, usage
from decode_cases import CASES, DecodeCase

from nexusquant.kernels.cuda_program import CudaError, compile_cubin
from nexusquant.kernels.decode_attention import launch as decode
from nexusquant.kernels.prefill_attention import launch as prefill

CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
FEW_BYTES = 64
LEAST_SHARED = 99 * 1024
"""What a block can have on every one of them."""

SHAPES = (
    *CASES,
    DecodeCase(lengths=(64,), dim=128, rotary_dim=128, groups=7, is_whole=False),
    DecodeCase(lengths=(64,), dim=128, rotary_dim=128, groups=4, bits=(3.5, 3.5)),
)


def source_of(paths: tuple[Path, ...], checks: str) -> str:
    return "".join(path.read_text("utf-8") for path in paths) + checks


def compiled(
    paths: tuple[Path, ...],
    macros: dict[str, int],
    warps: tuple[int, ...],
    capability: tuple[int, int],
) -> bytes:
    # weights of exact vectors come on top: of sixteen parts, and as many
    own_bytes = 4 * macros.get("GROUPED", 0) * 32
    checks = f"static_assert(shared_bytes + {own_bytes} <= {LEAST_SHARED});\n"
    source = source_of(paths, checks)
    for num_warps in warps:
        try:
            return compile_cubin(nvrtc(), source, macros | {"WARPS": num_warps}, capability)
        except CudaError as error:
            told = error
    raise told


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
def test_the_probe_compiles(capability: tuple[int, int]) -> None:
    path = Path(decode.__file__).parents[1] / "probe.cu"
    registers, stack = usage(compile_cubin(nvrtc(), source_of((path,), ""), {}, capability))
    assert registers > 0 and stack == 0


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_decode_compiles_within_its_registers_and_shared_memory(number: int) -> None:
    case = SHAPES[number]
    # one card for each shape, all cards over all shapes
    capability = CAPABILITIES[number % len(CAPABILITIES)]
    query = case.query().half()
    # few blocks of a head share the output otherwise than many
    blocks = {"waits": number % 3 > 0, "most_parts": (2, 16, 33)[number // 3 % 3]}
    shapes = (query, case.view(), query.float(), query, case.softcap)
    macros = decode.macros_of(*shapes, **blocks)
    registers, stack = usage(compiled(decode.SOURCES, macros, decode.WARPS, capability))
    assert registers <= 255 and stack <= FEW_BYTES


def macros_of(num_queries: int, dim: int) -> dict[str, int]:
    """Of one KV head with so many queries."""
    case = DecodeCase(lengths=(64,), dim=dim, rotary_dim=dim, groups=num_queries)
    query = case.query().half()
    return decode.macros_of(query, case.view(), query, query, None, waits=True, most_parts=16)


def test_many_queries_take_no_memory_beside_what_they_replace() -> None:
    compiled(decode.SOURCES, macros_of(16, 128), (max(decode.WARPS),), (8, 6))


def test_a_head_may_have_more_queries_than_a_warp_has_lanes() -> None:
    source, macros = source_of(decode.SOURCES, ""), macros_of(48, 64) | {"WARPS": 4}
    assert compile_cubin(nvrtc(), source, macros, (9, 0))


@pytest.mark.parametrize("capability", CAPABILITIES, ids=str)
@pytest.mark.parametrize("has_keys", [True, False])
def test_rebuilding_compiles(capability: tuple[int, int], has_keys: bool) -> None:
    view = replace(CASES[7], is_whole=has_keys).view()
    coder = view.key_quantizer if has_keys else view.value_quantizer
    macros = prefill.macros_of(view, coder, has_keys, torch.bfloat16)
    registers, stack = usage(compiled(prefill.SOURCES, macros, prefill.WARPS, capability))
    assert registers <= 255 and stack <= FEW_BYTES


def test_a_compiler_s_words_are_told() -> None:
    with pytest.raises(CudaError, match="nonsense"):
        compile_cubin(nvrtc(), "nonsense", {}, (8, 0))
