"""Starts the encode kernel: shapes, strides and tables for it. Imports Triton."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch.nn.functional import pad

from nexusquant.config import CODE_BITS
from nexusquant.kernels.encode.triton_kernel import encode_kernel
from nexusquant.lattice import STEP_PER_RMS, E8Quantizer, PackedVectors, Pairing, Rotary
from nexusquant.lattice.packing import WORD_BYTES, CodeLayout

_PAIRINGS = {Pairing.NONE: 0, Pairing.HALVES: 1, Pairing.NEIGHBOURS: 2}

_FUSES = False
"""A thread's own product, fused into a sum over threads, would give each of them another sum; they
have to agree on the scale that wins."""


class Tiling(NamedTuple):
    """How the work is cut.

    Args:
        vectors: Vectors of one program; a power of two from 16 on.
        chunk: Values of a vector that are multiplied by the basis at a time; 32 or 64.
        num_warps: Warps of one program.
        precision: How the basis is multiplied by: "ieee", or "tf32x3" on tensor cores from
            Ampere on, in three turns that together have the precision of float32.
    """

    vectors: int
    chunk: int
    num_warps: int
    precision: str


def tiling_for(num_coded: int, capability: tuple[int, int]) -> Tiling:
    """Choose a tiling.

    Args:
        num_coded: Stored coordinates of one vector.
        capability: Compute capability of the card.
    """
    coordinates = padded(num_coded)
    # at most sixteen coordinates in a thread: that leaves registers for 16 warps on an SM
    vectors, num_warps = (32, 4) if coordinates < 128 else (max(16, 4096 // coordinates), 8)
    return Tiling(vectors, 32, num_warps, "tf32x3" if capability >= (8, 0) else "ieee")


def padded(num_coded: int) -> int:
    """Coordinates that a program holds: a power of two, as Triton wants it."""
    return max(16, triton.next_power_of_2(num_coded))


def encode(
    quantizer: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None = None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
) -> PackedVectors:
    """Code vectors; see `kernels.encode`."""
    codes = vectors.new_empty(
        *vectors.shape[:-1], quantizer.bytes_per_vector - 1, dtype=torch.uint8
    )
    packed = PackedVectors(codes, vectors.new_empty(vectors.shape[:-1], dtype=torch.uint8))
    encode_into(packed, None, quantizer, vectors, positions, rotary, pairing)
    return packed


def encode_into(
    pool: PackedVectors,
    slots: torch.Tensor | None,
    quantizer: E8Quantizer,
    vectors: torch.Tensor,
    positions: torch.Tensor | None = None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
    encoder: torch.Tensor | None = None,
    is_bad: torch.Tensor | None = None,
) -> None:
    """Code vectors into slots of a pool; see `kernels.encode_into`.

    Without slots, vector n of head h gets the place h * N + n.
    """
    if vectors.dim() != 3 or vectors.shape[-1] != quantizer.dim:
        shape = tuple(vectors.shape)
        raise ValueError(f"vectors have shape {shape}; they must be [H, N, {quantizer.dim}].")
    if vectors.shape[0] * vectors.shape[1] == 0:
        return
    if rotary is None or pairing is Pairing.NONE:
        rotary, pairing = None, Pairing.NONE
    elif len(rotary.segments) > 1:
        # frequencies that change along the text are rare enough for torch
        vectors = rotary.take_off(vectors.float(), positions, pairing)
        rotary, pairing = None, Pairing.NONE
    encoder = quantizer.encoder if encoder is None else encoder
    is_noted = is_bad is not None
    is_bad = launch(
        pool, slots, quantizer, encoder, vectors, positions, rotary, pairing, is_bad=is_bad
    )
    if not is_noted and is_bad.item():
        raise ValueError("vectors hold NaN or infinite values, which cannot be coded.")


def launch(
    pool: PackedVectors,
    slots: torch.Tensor | None,
    quantizer: E8Quantizer,
    encoder: torch.Tensor,
    vectors: torch.Tensor,
    positions: torch.Tensor | None = None,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
    tiling: Tiling | None = None,
    is_bad: torch.Tensor | None = None,
) -> torch.Tensor:
    """Start the kernel and do not wait for it.

    Args:
        pool: See `encode_into`.
        slots: See `encode_into`.
        quantizer: See `encode_into`.
        encoder: That of the quantizer, which takes time to find.
        vectors: See `encode_into`; none of the sizes is 0.
        positions: See `encode_into`.
        rotary: None, or with one segment of frequencies.
        pairing: How; `NONE` without `rotary`.
        tiling: How to cut the work; None chooses.
        is_bad: What to return, if it is there already.

    Returns:
        Whether a vector holds NaN or infinity. [1], int32.
    """
    num_heads, num_vectors, _ = vectors.shape
    tiling = tiling or tiling_for(quantizer.num_coded, _capability(vectors.device))
    frequencies = _frequencies_of(rotary, vectors.device)
    if is_bad is None:
        is_bad = torch.zeros(1, dtype=torch.int32, device=vectors.device)
    with torch.cuda.device_of(vectors):
        encode_kernel[(triton.cdiv(num_vectors, tiling.vectors), num_heads)](
            *(vectors, *vectors.stride()),
            *_parts_of(quantizer, encoder),
            *_with_head_stride(None if positions is None else positions.long(), 2),
            *(frequencies, 1.0 if rotary is None else rotary.scaling),
            None if slots is None else slots.contiguous(),
            *pool,
            is_bad,
            *(num_vectors, quantizer.num_coded, quantizer.bytes_per_vector - 1),
            **constants_of(quantizer, frequencies, pairing, tiling),
            num_warps=tiling.num_warps,
            enable_fp_fusion=_FUSES,
        )
    return is_bad


def constants_of(
    quantizer: E8Quantizer, frequencies: torch.Tensor | None, pairing: Pairing, tiling: Tiling
) -> dict[str, object]:
    """What a kernel is built for.

    Args:
        quantizer: What codes mean.
        frequencies: One for each pair of values that turns; None where none do.
        pairing: How they turn.
        tiling: How the work is cut.
    """
    return {
        "NUM_PAIRS": quantizer.dim // 2 if frequencies is None else frequencies.numel(),
        "PAIRING": _PAIRINGS[pairing],
        "DIM": quantizer.dim,
        "TILE": tiling.vectors,
        "COORDINATES": padded(quantizer.num_coded),
        "CHUNK": tiling.chunk,
        "PRECISION": tiling.precision,
    }


def _frequencies_of(rotary: Rotary | None, device: torch.device) -> torch.Tensor | None:
    return None if rotary is None else rotary.segments[0].frequencies.to(device).contiguous()


def _parts_of(quantizer: E8Quantizer, encoder: torch.Tensor) -> tuple[object, ...]:
    """What the kernel needs of a quantizer, padded to what a program holds."""
    coordinates = padded(quantizer.num_coded)
    return (
        *_with_head_stride(quantizer.mean, 3),
        *_with_head_stride(pad(encoder, (0, coordinates - quantizer.num_coded)), 3),
        *_with_head_stride(quantizer.gains, 2),
        *_tables(quantizer.widths, coordinates // 8, encoder.device),
    )


def _capability(device: torch.device) -> tuple[int, int]:
    # only the interpreter gets here without a GPU
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _with_head_stride(
    tensor: torch.Tensor | None, num_dims: int
) -> tuple[torch.Tensor | None, int]:
    """The tensor, contiguous, and its steps from head to head; 0 where all have the same."""
    if tensor is None:
        return None, 0
    tensor = tensor.contiguous()
    is_shared = tensor.dim() < num_dims or tensor.shape[0] == 1
    return tensor, 0 if is_shared else tensor.stride(0)


@functools.lru_cache(maxsize=1024)
def _tables(
    widths: tuple[int, ...], num_groups: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the kernel has to know of widths.

    Returns:
        Bits of each group, int32, and the step over the RMS for them, float32, [num_groups]; and
        where their bytes are, [digits + 1, num_groups], int32.
    """
    padding = [0] * num_groups
    bits = [*filter(None, widths), *padding][:num_groups]
    units = [STEP_PER_RMS.get(width, 0.0) for width in bits]
    return (
        torch.tensor(bits, dtype=torch.int32, device=device),
        torch.tensor(units, device=device),
        _byte_places(bits).to(device),
    )


def _byte_places(widths: Sequence[int]) -> torch.Tensor:
    layout = CodeLayout.of(tuple(widths))
    places = torch.full((max(CODE_BITS) // 2 + 1, len(widths)), -1, dtype=torch.int32)
    for number, (group, digit) in enumerate(layout.words):
        places[digit, group] = WORD_BYTES * number
    for number, group in enumerate(layout.singles):
        places[-1, group] = WORD_BYTES * len(layout.words) + number
    return places
