"""Hadamard rotation and the E8 box code, after RoPE and without anything learnt of the model.

Reference: QuIP#, arXiv 2402.04396 (randomised Hadamard transform, E8 codebook), as KV caches use
it: one scale for each vector, set by its root mean square, stored as an 8-bit logarithm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nexusquant.lattice import (
    STEP_PER_RMS,
    decode_box,
    decode_scale,
    encode_box,
    encode_scale,
    pack_fields,
    rotation_matrix,
    unpack_fields,
)
from peers.coded_layer import Coded


class HadamardE8:
    """Codes vectors in `bits` bits per value and one byte of scale.

    Args:
        dim: Values in one vector, divisible by 8.
        bits: Bits per value, one that the box code has.
        seed: Seed of the rotation's signs.
        device: Where the vectors live.
    """

    def __init__(self, dim: int, bits: int, seed: int, device: torch.device) -> None:
        self._bits = bits
        self._rotation = rotation_matrix(dim, seed).to(device)

    def encode(self, vectors: Tensor) -> Coded:
        """Code vectors [H_kv, N, D]."""
        rotated = vectors.float() @ self._rotation
        rms = rotated.square().mean(dim=-1).sqrt()
        scales = encode_scale(STEP_PER_RMS[self._bits] * rms)
        step = decode_scale(scales.clamp(min=1), torch.float32).unsqueeze(-1)
        fields = encode_box((rotated / step).unflatten(-1, (-1, 8)), self._bits)
        return pack_fields(fields.flatten(-2), self._bits), scales

    def decode(self, coded: Coded) -> Tensor:
        """Rebuild vectors. [H_kv, N, D], float32."""
        packed, scales = coded
        fields = unpack_fields(packed, self._bits).unflatten(-1, (-1, 8))
        points = decode_box(fields, self._bits).flatten(-2)
        step = decode_scale(scales, torch.float32).unsqueeze(-1)
        return (points * step) @ self._rotation.T
