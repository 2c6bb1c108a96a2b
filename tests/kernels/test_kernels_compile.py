from __future__ import annotations

import pytest
import torch
from compiling import compile_for, each_capability

from nexusquant.kernels.encode.triton_kernel import encode_kernel
from nexusquant.kernels.encode.triton_launch import constants_of, tiling_for
from nexusquant.kernels.hold.triton_kernel import hold_kernel
from nexusquant.kernels.one_token.triton_kernel import (
    gated_kernel,
    linear_kernel,
    norm_kernel,
    projections_kernel,
    rotate_kernel,
)
from nexusquant.kernels.one_token.triton_launch import tiling_for as tiling_for_one
from nexusquant.kernels.triton_probe import double_kernel
from nexusquant.lattice import E8Quantizer, Pairing

# bytes of a thread's stack that no loop touches: the range reduction of sine and cosine
FEW_BYTES = 64

ALIGNED = ("vectors_head", "vectors_token", "encoder_head")
ENCODE_TYPES = {
    "vectors": "*bf16",
    "positions": "*i64",
    "slots": "*i64",
    "widths": "*i32",
    "byte_places": "*i32",
    "is_bad": "*i32",
    "codes": "*u8",
    "scales": "*u8",
    "rotary_scaling": "fp32",
    **dict.fromkeys(("mean", "encoder", "gains", "units", "frequencies"), "*fp32"),
}


@each_capability
def test_the_probe_compiles_without_a_gpu(capability):
    signature = {"numbers": "*i32", "doubled": "*i32", "count": "i32"}
    resources = compile_for(double_kernel, capability, signature, {"BLOCK": 64})
    assert resources.spilled_bytes == 0
    assert resources.registers > 0


@each_capability
@pytest.mark.parametrize(
    ("dim", "num_stored", "pairing"),
    [(128, 16, Pairing.NONE), (128, 8, Pairing.HALVES), (256, 32, Pairing.NEIGHBOURS)],
)
def test_encode_compiles_for_every_card_within_its_registers(capability, dim, num_stored, pairing):
    widths = (2,) * num_stored + (0,) * (dim // 8 - num_stored)
    coder = E8Quantizer.of_rows(widths, torch.eye(dim), torch.ones(dim // 8))
    tiling = tiling_for(coder.num_coded, divmod(capability, 10))
    is_turned = pairing is not Pairing.NONE
    constants = constants_of(coder, torch.ones(dim // 4) if is_turned else None, pairing, tiling)
    # values: nothing turns, there is no mean
    absent = () if is_turned else ("mean", "frequencies")
    constants |= {"vectors_value": 1, **dict.fromkeys(absent)}
    signature = dict.fromkeys(encode_kernel.arg_names, "i32") | ENCODE_TYPES
    resources = compile_for(
        encode_kernel, capability, signature, constants, tiling.num_warps, aligned=ALIGNED
    )
    assert resources.spilled_bytes <= FEW_BYTES
    # what a program has without asking for more, on every card
    assert resources.shared_bytes <= 48 * 1024


@each_capability
def test_hold_compiles_for_every_card(capability):
    signature = dict.fromkeys(hold_kernel.arg_names, "i32")
    signature |= {"new_keys": "*bf16", "new_values": "*bf16", "slot": "*i64"}
    signature |= {"keys": "*fp16", "values": "*bf16", "means": "*fp32", "wide_keys": "*fp32"}
    constants = {"DIM": 128, "VALUE_DIM": 128, "BLOCK": 128}
    resources = compile_for(hold_kernel, capability, signature, constants, num_warps=1)
    assert resources.spilled_bytes == 0


TILING = tiling_for_one(4096)
MATRIX = {"WIDTH": 4096, "ROWS": TILING.rows, "CHUNK": TILING.chunk}
ONE_TOKEN = {
    norm_kernel: {"DIM": 4096, "BLOCK": 4096},
    rotate_kernel: {"DIM": 128, "TURNED": 128, "BLOCK": 128},
    linear_kernel: {**MATRIX, "HAS_BIAS": True},
    projections_kernel: {**MATRIX, "HAS_BIAS": True},
    gated_kernel: MATRIX,
}


@each_capability
@pytest.mark.parametrize("kernel", ONE_TOKEN, ids=lambda kernel: kernel.__name__)
def test_one_tokens_way_compiles_for_every_card(capability, kernel):
    strides = {"query_head", "key_head"}
    signature = {
        name: "i32" if name in strides or name.startswith("num_") else "*bf16"
        for name in kernel.arg_names
    }
    signature |= {"eps": "fp32"} if "eps" in signature else {}
    num_warps = {norm_kernel: 8, rotate_kernel: 1}.get(kernel, TILING.num_warps)
    resources = compile_for(kernel, capability, signature, ONE_TOKEN[kernel], num_warps)
    assert resources.spilled_bytes == 0
