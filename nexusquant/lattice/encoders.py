"""What gives the stored coordinates, for many quantizers at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nexusquant.lattice.quantizer import E8Quantizer

MATRICES_AT_ONCE = 64
"""Bounds the float64 temporaries. Single matrices would keep a GPU waiting."""


def encoders_of(quantizers: Sequence[E8Quantizer]) -> list[Tensor]:
    """`encoder` of each quantizer; one that comes again is inverted once."""
    distinct = list({id(quantizer): quantizer for quantizer in quantizers}.values())
    found = {}
    # of one size, and on one device: layers may be on several
    alike: dict[tuple[int, torch.device], list[E8Quantizer]] = {}
    for quantizer in distinct:
        alike.setdefault((quantizer.dim, quantizer.basis.device), []).append(quantizer)
    for (dim, _), of_size in alike.items():
        for quantizer, inverse in zip(of_size, _inverses(of_size, dim), strict=True):
            found[id(quantizer)] = inverse[..., : quantizer.num_coded].contiguous()
    return [found[id(quantizer)] for quantizer in quantizers]


def _inverses(quantizers: Sequence[E8Quantizer], dim: int) -> list[Tensor]:
    rows = [quantizer.rows(dim) for quantizer in quantizers]
    flat = torch.cat([one.reshape(-1, dim, dim) for one in rows])
    parts = [torch.linalg.inv(part.double()).float() for part in flat.split(MATRICES_AT_ONCE)]
    counts = [one.numel() // dim**2 for one in rows]
    inverses = torch.cat(parts).split(counts)
    return [inverse.reshape(one.shape) for inverse, one in zip(inverses, rows, strict=True)]
