"""The mathematics of compression: E8 points, codes, packing, rotation, quantizer. Has no state."""

from nexusquant.lattice.bit_shares import (
    MOST_KEY_BITS,
    MOST_VALUE_BITS,
    share_bits,
    share_even_bits,
)
from nexusquant.lattice.box_code import GAUSSIAN_ERROR, STEP_PER_RMS, decode_box, encode_box
from nexusquant.lattice.dither import token_signs
from nexusquant.lattice.e8 import is_lattice_point, nearest_point
from nexusquant.lattice.encoders import encoders_of
from nexusquant.lattice.key_basis import KeyBasis, fit_key_basis, key_quantizer
from nexusquant.lattice.log_scale import decode_scale, encode_scale, scale_table
from nexusquant.lattice.packing import PackedVectors, pack_fields, unpack_fields
from nexusquant.lattice.point_table import decode_packed
from nexusquant.lattice.quantizer import E8Quantizer
from nexusquant.lattice.rotary import Pairing, Rotary, RotarySegment
from nexusquant.lattice.rotation import rotation_matrix

__all__ = [
    "GAUSSIAN_ERROR",
    "MOST_KEY_BITS",
    "MOST_VALUE_BITS",
    "STEP_PER_RMS",
    "E8Quantizer",
    "KeyBasis",
    "PackedVectors",
    "Pairing",
    "Rotary",
    "RotarySegment",
    "decode_box",
    "decode_packed",
    "decode_scale",
    "encode_box",
    "encode_scale",
    "encoders_of",
    "fit_key_basis",
    "is_lattice_point",
    "key_quantizer",
    "nearest_point",
    "pack_fields",
    "rotation_matrix",
    "scale_table",
    "share_bits",
    "share_even_bits",
    "token_signs",
    "unpack_fields",
]
