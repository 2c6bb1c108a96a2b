from __future__ import annotations

import pytest
import torch
from compiling import compile_for, each_capability

from nexusquant.kernels.decode_attention.triton_kernel import part_kernel
from nexusquant.kernels.encode.triton_kernel import encode_kernel
from nexusquant.kernels.encode.triton_launch import constants_of, tiling_for
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


DECODE_TYPES = {
    "query": "*bf16",
    "lengths": "*i64",
    "positions": "*i64",
    "basis": "*i8",
    **dict.fromkeys(("key_codes", "key_scales", "value_codes", "value_scales"), "*u8"),
    **dict.fromkeys(("page_table", "digit_rows", "columns"), "*i32"),
    **dict.fromkeys(("row_units", "mean", "digit_sizes", "frequencies"), "*fp32"),
    **dict.fromkeys(("maxima", "totals", "weight_sums", "weighted"), "*fp32"),
    **dict.fromkeys(("rotary_scaling", "logit_scaling", "softcap"), "fp32"),
}


@each_capability
def test_decode_compiles_for_every_card_and_fits_from_ampere_on(capability):
    # every card gets one of the two variants
    dim, is_whole = 128, capability in (80, 89, 120)
    # 2 bits a value; of keys, half of the groups have an odd width
    words, singles = dim // 8 - dim // 32, dim // 16
    layout = {"BYTES": 2 * words + singles, "WORDS": 16, "SINGLES": 8}
    constants = {
        **{f"KEY_{name}": number for name, number in layout.items()},
        **{"NUM_KEY_WORDS": words, "NUM_KEY_SINGLES": singles},
        **{"VALUE_BYTES": dim // 4, "NUM_VALUE_WORDS": dim // 8, "VALUE_WORDS": 16},
        **{"NUM_VALUE_SINGLES": 0, "VALUE_SINGLES": 8},
        **{"PAGE": 64, "DIM": dim, "HALF": dim // 2, "GROUPED": 4, "QUERIES": 16},
        **{"HAS_MEAN": True, "HAS_SOFTCAP": False, "IS_WHOLE": is_whole, "IS_FAST": True},
    }
    signature = dict.fromkeys(part_kernel.arg_names, "i32") | DECODE_TYPES
    resources = compile_for(part_kernel, capability, signature, constants)
    # the older ones have half the shared memory: they are served by torch
    assert capability < 80 or resources.shared_bytes <= 99 * 1024
