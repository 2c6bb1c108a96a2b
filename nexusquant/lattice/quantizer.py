"""Vectors to packed bytes and back: mean, rotation, box code, logarithmic scale.

Knows the shapes of vectors and how the parts of the code fit together; knows no models, layers,
pages or attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nexusquant.lattice.box_code import STEP_PER_RMS, check_bits, decode_box, encode_box
from nexusquant.lattice.e8 import DIM
from nexusquant.lattice.log_scale import decode_scale, encode_scale
from nexusquant.lattice.packing import pack_fields
from nexusquant.lattice.point_table import decode_packed
from nexusquant.lattice.rotation import rotation_matrix

# values coded at a time: bounds the float32 temporaries, and small ones stay in a CPU's cache
_VALUES_PER_SLICE = 2**18
# inputs beyond this are far above the largest scale; clamping keeps their squares finite
_LARGEST_INPUT = 1e15
# a rescaled reconstruction may leave its step by these factors, so that a vector that the
# codebook cannot point at keeps a sane size
_LEAST_RESCALE, _MOST_RESCALE = 0.25, 4.0


class PackedVectors(NamedTuple):
    """Coded vectors.

    Args:
        codes: Packed fields. [..., N, D * bits / 8], uint8.
        scales: Logarithmic codes of the vectors' scales. [..., N], uint8.
    """

    codes: Tensor
    scales: Tensor


@dataclass(frozen=True, eq=False)
class E8Quantizer:
    """Codes vectors in `bits` bits per value and one byte of scale per vector.

    Args:
        bits: Bits per value, one of `CODE_BITS`.
        rotation: Orthonormal matrix, applied as `x @ rotation`. [D, D], float32.
        mean: What is subtracted before rotating, or None. Broadcastable to [..., 1, D], float32,
            on the device of `rotation`.

    Raises:
        ValueError: An unknown width, or sizes that do not fit together.
    """

    bits: int
    rotation: Tensor
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits)
        shape = tuple(self.rotation.shape)
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] % DIM:
            raise ValueError(f"rotation has shape {shape}; it must be square, of 8 n rows.")
        if self.mean is not None and self.mean.shape[-1] != self.dim:
            raise ValueError(f"mean has {self.mean.shape[-1]} values; the rotation has {self.dim}.")

    @classmethod
    def create(cls, dim: int, bits: int, seed: int, device: torch.device | str) -> E8Quantizer:
        """Make a quantizer with a seeded rotation and no mean.

        Args:
            dim: Values in one vector; a positive multiple of 8.
            bits: Bits per value, one of `CODE_BITS`.
            seed: Seed of the rotation.
            device: Where the vectors to code live.

        Returns:
            The quantizer; `dataclasses.replace(quantizer, mean=...)` adds a mean.

        Raises:
            ValueError: An unknown width, or a `dim` that is not a positive multiple of 8.
        """
        return cls(bits=bits, rotation=rotation_matrix(dim, seed).to(device))

    @property
    def dim(self) -> int:
        """Values in one vector."""
        return self.rotation.shape[0]

    @property
    def bytes_per_vector(self) -> int:
        """Stored bytes of one vector, its scale included."""
        return self.dim * self.bits // 8 + 1

    def encode(self, vectors: Tensor) -> PackedVectors:
        """Code vectors so that, up to the rounding of the scale, <x, x_hat> = <x, x>.

        A coarse nearest-point code shrinks what it codes; setting the stored scale by the inner
        product undoes that, so that sums over many vectors come out right. A vector (less the
        mean) of zeros, or too small for the smallest scale, decodes to zeros.

        Args:
            vectors: Vectors to code. [..., N, D], floating, finite, on the rotation's device.

        Returns:
            The packed vectors.

        Raises:
            ValueError: A wrong D, or values that are NaN or infinite.
        """
        self._check(vectors)
        *batch, num_vectors, dim = vectors.shape
        codes = vectors.new_empty(*batch, num_vectors, dim * self.bits // 8, dtype=torch.uint8)
        scales = vectors.new_empty(*batch, num_vectors, dtype=torch.uint8)
        values_per_row = max(1, vectors[..., :1, :].numel())
        rows = max(1, _VALUES_PER_SLICE // values_per_row)
        for start in range(0, num_vectors, rows):
            part = slice(start, start + rows)
            codes[..., part, :], scales[..., part] = self._encode_slice(vectors[..., part, :])
        return PackedVectors(codes, scales)

    def decode(self, packed: PackedVectors, dtype: torch.dtype) -> Tensor:
        """Rebuild vectors; the arithmetic is float32 whatever the result's type.

        Args:
            packed: What `encode` made.
            dtype: Floating type of the result.

        Returns:
            Vectors. [..., N, D].
        """
        points, scales = self.decode_rotated(packed, torch.float32)
        vectors = (points * scales.unsqueeze(-1)) @ self.rotation.T
        return (vectors if self.mean is None else vectors + self.mean).to(dtype)

    def decode_rotated(self, packed: PackedVectors, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rebuild vectors less the mean in the rotated basis, sizes apart.

        For attention that rotates the query instead of every key: with q' = q @ rotation, the
        product <q, x_hat> is scale * <q', point> + <q, mean>.

        Args:
            packed: What `encode` made.
            dtype: Floating type of the results.

        Returns:
            Values in units of the step [..., N, D] and the scales [..., N].
        """
        points = decode_packed(packed.codes, self.bits, dtype)
        return points, decode_scale(packed.scales, dtype)

    def _encode_slice(self, vectors: Tensor) -> PackedVectors:
        x = vectors.float().clamp(-_LARGEST_INPUT, _LARGEST_INPUT)
        x = (x if self.mean is None else x - self.mean) @ self.rotation
        rms = x.square().mean(dim=-1, keepdim=True).sqrt()
        # a step from the grid makes the codes insensitive to the last bits of the RMS
        step_codes = encode_scale(STEP_PER_RMS[self.bits] * rms)
        step = decode_scale(step_codes.clamp(min=1), torch.float32)
        y = (x / step).view(*x.shape[:-1], self.dim // DIM, DIM)
        fields = encode_box(y, self.bits)
        energy = y.square().sum(dim=(-2, -1))
        aligned = (y * decode_box(fields, self.bits)).sum(dim=(-2, -1))
        rescale = (energy / aligned.clamp(min=1e-6)).clamp(_LEAST_RESCALE, _MOST_RESCALE)
        scales = encode_scale((step * rescale.unsqueeze(-1)).squeeze(-1))
        # the codebook has no zero: what is too small for the finest step must get scale 0
        scales = scales.masked_fill((step_codes == 0).squeeze(-1), 0)
        return PackedVectors(pack_fields(fields.flatten(-2), self.bits), scales)

    def _check(self, vectors: Tensor) -> None:
        if vectors.dim() < 2 or vectors.shape[-1] != self.dim:
            shape = tuple(vectors.shape)
            raise ValueError(f"vectors have shape {shape}; they must be [..., N, {self.dim}].")
        if not vectors.isfinite().all():
            raise ValueError("vectors hold NaN or infinite values, which cannot be coded.")
