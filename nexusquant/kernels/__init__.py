"""The hot operations on packed codes. Each has a folder with a torch reference that specifies it.

Knows lattice points and torch; knows no model, no cache and no transformers.
"""

from nexusquant.kernels.backend import triton_problem
from nexusquant.kernels.decode_attention import PackedView, decode_problem, packed_attention
from nexusquant.kernels.encode import codes_in_place, encode, encode_into
from nexusquant.kernels.hold import hold_token
from nexusquant.kernels.one_token import (
    gated_one,
    linear_one,
    norm_one,
    projections_one,
    rotate_one,
)
from nexusquant.kernels.prefill_attention.exact import attend_exactly, needs_masks

__all__ = [
    "PackedView",
    "attend_exactly",
    "codes_in_place",
    "decode_problem",
    "encode",
    "encode_into",
    "gated_one",
    "hold_token",
    "linear_one",
    "needs_masks",
    "norm_one",
    "packed_attention",
    "projections_one",
    "rotate_one",
    "triton_problem",
]
