"""Vectors to packed bytes: on a GPU in one kernel, elsewhere by plain torch operations."""

from __future__ import annotations

import torch

from nexusquant.kernels.backend import triton_problem
from nexusquant.kernels.encode import reference
from nexusquant.lattice import E8Quantizer, PackedVectors, Pairing, Rotary

__all__ = ["codes_in_place", "encode", "encode_into"]


def codes_in_place(device: torch.device, rotary: Rotary | None) -> bool:
    """Whether vectors are coded as they lie there; else copies of them are made, in float32.

    Args:
        device: Of the vectors.
        rotary: What they were rotated by, or None.
    """
    is_even = rotary is None or len(rotary.segments) == 1
    return is_even and triton_problem(device) is None


def encode(
    quantizer: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None = None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
) -> PackedVectors:
    """Code vectors, after taking off their rotation by position.

    Args:
        quantizer: What codes mean.
        vectors: [H, N, D], floating, finite, with any strides.
        positions: Token index of each; None means all even. [N] or [H, N], int64.
        rotary: What vectors were rotated by, or None. Needs positions.
        pairing: How.

    Returns:
        Codes [H, N, bytes] and scales [H, N], uint8: those of `E8Quantizer.encode`, but that a
        sum in another order can move a value across the border between two codes.

    Raises:
        ValueError: A wrong D, or values that are NaN or infinite.
    """
    if triton_problem(vectors.device) is not None:
        return reference.encode(quantizer, vectors, positions, rotary, pairing)
    from nexusquant.kernels.encode import triton_launch

    return triton_launch.encode(quantizer, vectors, positions, rotary, pairing)


def encode_into(
    pool: PackedVectors,
    slots: torch.Tensor,
    quantizer: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None = None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
    encoder: torch.Tensor | None = None,
    is_bad: torch.Tensor | None = None,
) -> None:
    """Code vectors straight to where they are kept.

    Args:
        pool: Codes [P, page_size, bytes] and scales [P, page_size], uint8, contiguous; changed
            in the slots named, and nowhere else.
        slots: Place of each vector in the pool, counted over all pages; -1 for those that are not
            kept. [H, N], int64, no place twice.
        quantizer: See `encode`.
        vectors: See `encode`.
        positions: See `encode`.
        rotary: See `encode`.
        pairing: See `encode`.
        encoder: That of the quantizer, if it is known already.
        is_bad: Becomes 1 where a value is NaN or infinite, [1], int32, so that nobody waits for
            the device. None: raise.

    Raises:
        ValueError: See `encode`; slots then hold anything.
    """
    coded = (quantizer, vectors, positions, rotary, pairing, encoder)
    if triton_problem(vectors.device) is not None:
        reference.encode_into(pool, slots, *coded)
        return
    from nexusquant.kernels.encode import triton_launch

    triton_launch.encode_into(pool, slots, *coded, is_bad)
