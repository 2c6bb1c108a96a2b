"""Vectors to packed bytes and back: mean, basis, box codes of several widths, one scale.

Knows the shapes of vectors and how the parts of the code fit together; knows no models, layers,
pages or attention. A vector less the mean is written in a basis whose coordinates, eight at a
time, are coded in a width of their own: `x_hat = mean + sign * scale * points @ basis`, where the
sign alternates from token to token (see `token_signs`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nexusquant.lattice.bit_shares import even_widths
from nexusquant.lattice.box_code import STEP_PER_RMS, check_bits, decode_box, encode_box
from nexusquant.lattice.dither import token_signs
from nexusquant.lattice.e8 import DIM
from nexusquant.lattice.log_scale import decode_scale, encode_scale, round_scale
from nexusquant.lattice.packing import PackedVectors, pack_vectors, split_vectors
from nexusquant.lattice.point_table import decode_packed
from nexusquant.lattice.rotation import rotation_matrix
from nexusquant.lattice.whole_basis import whole_basis

SCALE_FACTORS = (0.85, 1.0, 1.18)
"""Scales that are tried for every vector, over the RMS of its coordinates."""

# values coded at a time: bounds the float32 temporaries, and small ones stay in a CPU's cache
_VALUES_PER_SLICE = 2**18
# inputs beyond this are far above the largest scale; clamping keeps their squares finite
LARGEST_INPUT = 1e15
# a rescaled reconstruction may leave its step by these factors, so that a vector that the
# codebook cannot point at keeps a sane size
LEAST_RESCALE, MOST_RESCALE = 0.25, 4.0


@dataclass(frozen=True, eq=False)
class E8Quantizer:
    """Codes vectors in `widths` bits per coordinate and one byte of scale per vector.

    Args:
        widths: Bits of each group of eight coordinates, none larger than the one before it;
            0 means that the group is not stored.
        basis: What one step of each coordinate adds to a vector of scale 1, one row each, in
            units of `column_units`. [D, D] or [H, D, D] with a basis for each head, invertible,
            int8; see `whole_basis`.
        column_units: One for each value of a vector, powers of two times the first. [D] or
            [H, D], float32.
        gains: Weight of one step in each group; errors are made small in this measure.
            [D / 8] or [H, D / 8], float32.
        mean: What is subtracted first, or None. [1, D] or [H, 1, D], float32.

    Raises:
        ValueError: An unknown width, or sizes that do not fit together.
    """

    widths: tuple[int, ...]
    basis: Tensor
    column_units: Tensor
    gains: Tensor
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        for width in self.widths:
            if width:
                check_bits(width)
        if list(self.widths) != sorted(self.widths, reverse=True) or not any(self.widths):
            raise ValueError(f"widths is {self.widths}; they must fall, from 1 bit or more.")
        shape = tuple(self.basis.shape)
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] != DIM * len(self.widths):
            raise ValueError(f"basis has shape {shape}; it must be square, 8 rows for each width.")
        if self.gains.shape[-1] != len(self.widths):
            raise ValueError(f"gains has {self.gains.shape[-1]} values; one for each width is due.")
        if self.mean is not None and self.mean.shape[-1] != self.dim:
            raise ValueError(f"mean has {self.mean.shape[-1]} values; the basis has {self.dim}.")

    @classmethod
    def create(
        cls, dim: int, bits: float | tuple[int, ...], seed: int, device: torch.device | str
    ) -> E8Quantizer:
        """Make a quantizer whose basis is a seeded rotation, without a mean.

        Args:
            dim: Values in one vector; a positive multiple of 8.
            bits: Widths of the groups, or mean bits per value.
            seed: Seed of the rotation.
            device: Where the vectors to code live.

        Raises:
            ValueError: An unknown width, or a `dim` that is not a positive multiple of 8.
        """
        rotation = rotation_matrix(dim, seed)
        widths = bits if isinstance(bits, tuple) else even_widths(bits, dim // DIM)
        for width in set(widths):
            check_bits(width)
        gains = torch.tensor([STEP_PER_RMS[width] for width in widths])
        rows = rotation.T * gains.repeat_interleave(DIM).unsqueeze(1)
        return cls.of_rows(widths, rows, gains).to(device)

    @classmethod
    def of_rows(
        cls, widths: tuple[int, ...], rows: Tensor, gains: Tensor, mean: Tensor | None = None
    ) -> E8Quantizer:
        """Make a quantizer with its basis in 8 bits a number.

        The rounding makes another basis, a little off the best one, and costs nothing else:
        coding inverts the basis that is stored.

        Args:
            widths: See the class.
            rows: The basis. [D, D] or [H, D, D], floating.
            gains: See the class.
            mean: See the class.
        """
        num_coded = DIM * sum(width > 0 for width in widths)
        basis, units, sizes = whole_basis(rows.float(), num_coded)
        made = cls(widths, basis, units, gains, mean)
        return replace(made, gains=gains * sizes.unflatten(-1, (-1, DIM)).mean(dim=-1))

    def to(self, device: torch.device | str) -> E8Quantizer:
        """The same quantizer elsewhere; a basis made there could be rounded to another one."""
        held = ((n, getattr(self, n)) for n in ("basis", "column_units", "gains", "mean"))
        return replace(self, **{n: t.to(device) for n, t in held if t is not None})

    @property
    def dim(self) -> int:
        """Values in one vector."""
        return self.basis.shape[-1]

    @property
    def num_coded(self) -> int:
        """Coordinates that are stored: those of groups with bits, which come first."""
        return DIM * sum(width > 0 for width in self.widths)

    @property
    def bytes_per_vector(self) -> int:
        """Stored bytes of one vector, its scale included: a group of b bits takes b bytes."""
        return sum(self.widths) + 1

    @property
    def decoder(self) -> Tensor:
        """The basis rows of stored coordinates. [..., num_coded, D], float32."""
        return self.rows(self.num_coded)

    @property
    def encoder(self) -> Tensor:
        """What gives the stored coordinates; undoes the rounded basis. [..., D, num_coded]."""
        return torch.linalg.inv(self.rows(self.dim).double())[..., : self.num_coded].float()

    def encode(
        self, vectors: Tensor, positions: Tensor | None = None, encoder: Tensor | None = None
    ) -> PackedVectors:
        """Code vectors so that, up to the rounding of the scale, <x, x_hat> = <x, x>.

        A coarse nearest-point code shrinks what it codes; setting the stored scale by the inner
        product undoes that, so that sums over many vectors come out right. Of the scales tried,
        the one wins that leaves the least error. Both are measured in stored coordinates, weighted
        by `gains`. A vector (less the mean) of zeros, or too small for any scale, becomes zeros.

        Args:
            vectors: Vectors to code. [..., N, D], floating, finite, on the basis's device.
            positions: Token index of each, needed again to decode it; None means all even. [N] or
                [..., N], integer.
            encoder: `encoder`, if that is known already.

        Returns:
            The packed vectors.

        Raises:
            ValueError: A wrong D, or values that are NaN or infinite.
        """
        self._check(vectors)
        *batch, num_vectors, _ = vectors.shape
        codes = vectors.new_empty(*batch, num_vectors, sum(self.widths), dtype=torch.uint8)
        scales = vectors.new_empty(*batch, num_vectors, dtype=torch.uint8)
        encoder = self.encoder if encoder is None else encoder
        values_per_row = max(1, vectors[..., :1, :].numel())
        rows = max(1, _VALUES_PER_SLICE // values_per_row)
        for start in range(0, num_vectors, rows):
            part = slice(start, start + rows)
            x = vectors[..., part, :].float().clamp(-LARGEST_INPUT, LARGEST_INPUT)
            y = (x if self.mean is None else x - self.mean) @ encoder
            if positions is not None:
                y *= token_signs(positions[..., part]).unsqueeze(-1)
            codes[..., part, :], scales[..., part] = self._encode_steps(y)
        return PackedVectors(codes, scales)

    def decode(
        self, packed: PackedVectors, dtype: torch.dtype, positions: Tensor | None = None
    ) -> Tensor:
        """Rebuild vectors; the arithmetic is float32 whatever the result's type.

        Args:
            packed: What `encode` made.
            dtype: Floating type of the result.
            positions: Those given to `encode`.

        Returns:
            Vectors. [..., N, D].
        """
        points, scales = self.decode_points(packed, torch.float32, positions)
        vectors = (points * scales.unsqueeze(-1)) @ self.decoder
        return (vectors if self.mean is None else vectors + self.mean).to(dtype)

    def decode_points(
        self, packed: PackedVectors, dtype: torch.dtype, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rebuild stored coordinates and scales, apart: `points * scales @ decoder + mean`.

        For attention that takes many vectors together before it leaves the basis.

        Args:
            packed: What `encode` made.
            dtype: Floating type of the results.
            positions: Those given to `encode`.

        Returns:
            Coordinates in steps [..., N, num_coded] and the scales with their signs [..., N].
        """
        runs = [
            decode_packed(codes, width, dtype)
            for width, codes in split_vectors(packed.codes, self.widths)
        ]
        points = runs[0] if len(runs) == 1 else torch.cat(runs, dim=-1)
        scales = decode_scale(packed.scales, dtype)
        return points, scales if positions is None else scales * token_signs(positions).to(dtype)

    def rows(self, count: int) -> Tensor:
        """The first rows of the basis. [..., count, D], float32."""
        return self.basis[..., :count, :].float().mul_(self.column_units.unsqueeze(-2))

    def _encode_steps(self, y: Tensor) -> PackedVectors:
        """Code coordinates in steps. [..., N, num_coded], float32."""
        metric = self._per_coordinate(self.gains).square()
        unit = self._per_coordinate(
            self.gains.new_tensor([STEP_PER_RMS.get(w, 0.0) for w in self.widths])
        )
        rms = (y * unit).square().mean(dim=-1).sqrt()
        energy = (y.square() * metric).sum(dim=-1)
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for factor in SCALE_FACTORS:
            scale = round_scale(rms * factor)
            fields, points = self._nearest(y / scale.unsqueeze(-1))
            aligned = (y * points * metric).sum(dim=-1).clamp(min=1e-12)
            rescale = (energy / (aligned * scale)).clamp(LEAST_RESCALE, MOST_RESCALE)
            unbiased = scale * rescale
            codes = encode_scale(unbiased)
            # what stays beside the vector, and what rounding the scale adds, up or down alike
            rounding = (decode_scale(codes, torch.float32) - unbiased).square()
            error = (rounding + unbiased.square()) * (points.square() * metric).sum(dim=-1)
            found = (error, fields, codes)
            best = found if best is None else _better(best, found)
        _, fields, codes = best
        # the codebook has no zero: what is too small for the finest step must get scale 0
        return PackedVectors(
            pack_vectors(fields, self.widths), codes.masked_fill(encode_scale(rms) == 0, 0)
        )

    def _nearest(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Fields (uint8) and the points they name, both shaped like `y`."""
        fields, points = [], []
        for width, part in self._coordinate_runs():
            groups = y[..., part].unflatten(-1, (-1, DIM))
            fields.append(encode_box(groups, width))
            points.append(decode_box(fields[-1], width).flatten(-2))
        return torch.cat([f.flatten(-2) for f in fields], dim=-1), torch.cat(points, dim=-1)

    def _coordinate_runs(self) -> Iterator[tuple[int, slice]]:
        """Each width in use with the coordinates that have it."""
        first = 0
        for width in dict.fromkeys(filter(None, self.widths)):
            end = first + DIM * self.widths.count(width)
            yield width, slice(first, end)
            first = end

    def _per_coordinate(self, of_groups: Tensor) -> Tensor:
        """[..., D / 8] -> [..., 1, num_coded]."""
        return of_groups.repeat_interleave(DIM, dim=-1)[..., None, : self.num_coded]

    def _check(self, vectors: Tensor) -> None:
        if vectors.dim() < 2 or vectors.shape[-1] != self.dim:
            shape = tuple(vectors.shape)
            raise ValueError(f"vectors have shape {shape}; they must be [..., N, {self.dim}].")
        if not vectors.isfinite().all():
            raise ValueError("vectors hold NaN or infinite values, which cannot be coded.")


def _better(
    one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of two codings (error, fields, scale), for every vector the one with the smaller error."""
    wins = other[0] < one[0]
    return (
        torch.where(wins, other[0], one[0]),
        torch.where(wins.unsqueeze(-1), other[1], one[1]),
        torch.where(wins, other[2], one[2]),
    )
