"""Coding of vectors in plain torch: the specification of every faster version.

Knows vectors, codes and slots of a pool. Must not know who owns the pool or which vectors stay.
"""

from __future__ import annotations

import torch

from nexusquant.lattice import E8Quantizer, PackedVectors, Pairing, Rotary


def encode(
    quantizer: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None = None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
    encoder: torch.Tensor | None = None,
) -> PackedVectors:
    """Code vectors; see `kernels.encode`."""
    if rotary is not None:
        vectors = rotary.take_off(vectors.float(), positions, pairing)
    return quantizer.encode(vectors, positions, encoder)


def encode_into(
    pool: PackedVectors,
    slots: torch.Tensor,
    quantizer: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None = None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
    encoder: torch.Tensor | None = None,
) -> None:
    """Code vectors into slots of a pool; see `kernels.encode_into`."""
    packed = encode(quantizer, vectors, positions, rotary, pairing, encoder)
    is_stored = slots >= 0
    pool.codes.flatten(0, -2)[slots[is_stored]] = packed.codes[is_stored]
    pool.scales.flatten()[slots[is_stored]] = packed.scales[is_stored]
