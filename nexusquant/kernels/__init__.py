"""The hot operations on packed codes. Each has a folder with a torch reference that specifies it.

Knows lattice points and torch; knows no model, no cache and no transformers.
"""

from nexusquant.kernels.backend import triton_problem
from nexusquant.kernels.decode_attention import PackedView, decode_problem, packed_attention
from nexusquant.kernels.encode import encode, encode_into
from nexusquant.kernels.hold import hold_token

__all__ = [
    "PackedView",
    "decode_problem",
    "encode",
    "encode_into",
    "hold_token",
    "packed_attention",
    "triton_problem",
]
