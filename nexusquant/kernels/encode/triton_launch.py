"""Starts the encode kernel: shapes, strides and tables for it. Imports Triton."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton

from nexusquant.config import CODE_BITS
from nexusquant.kernels.encode.triton_kernel import encode_kernel
from nexusquant.lattice import STEP_PER_RMS, E8Quantizer, PackedVectors, Pairing, Rotary
from nexusquant.lattice.packing import WORD_BYTES, CodeLayout

_PAIRINGS = {Pairing.NONE: 0, Pairing.HALVES: 1, Pairing.NEIGHBOURS: 2}
_CHUNK, _NUM_WARPS, _VALUES_PER_TILE = 32, 8, 4096


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
        frequencies, scaling, pairing = None, 1.0, Pairing.NONE
    elif len(rotary.segments) == 1:
        frequencies = rotary.segments[0].frequencies.to(vectors.device, torch.float32).contiguous()
        scaling = rotary.scaling
    else:
        # frequencies that change along the text are rare enough for torch
        vectors = rotary.take_off(vectors.float(), positions, pairing)
        frequencies, scaling, pairing = None, 1.0, Pairing.NONE
    if positions is not None:
        positions = positions.long().contiguous()
    is_bad = torch.zeros(1, dtype=torch.int32, device=vectors.device)
    with torch.cuda.device_of(vectors):
        _launch(pool, slots, quantizer, vectors, positions, frequencies, scaling, pairing, is_bad)
    if is_bad.item():
        raise ValueError("vectors hold NaN or infinite values, which cannot be coded.")


def _launch(pool, slots, quantizer, vectors, positions, frequencies, scaling, pairing, is_bad):
    coordinates = max(16, triton.next_power_of_2(quantizer.num_coded))
    tile = min(128, max(16, _VALUES_PER_TILE // coordinates))
    num_heads, num_vectors, dim = vectors.shape
    encoder, mean = quantizer.encoder.contiguous(), quantizer.mean
    gains = quantizer.gains.contiguous()
    encode_kernel[(triton.cdiv(num_vectors, tile), num_heads)](
        vectors,
        *vectors.stride(),
        mean,
        _head_stride(mean, 3),
        encoder,
        _head_stride(encoder, 3),
        gains,
        _head_stride(gains, 2),
        *_tables(quantizer.widths, coordinates // 8, vectors.device),
        positions,
        _head_stride(positions, 2),
        frequencies,
        scaling,
        None if slots is None else slots.contiguous(),
        pool.codes,
        pool.scales,
        is_bad,
        num_vectors,
        quantizer.num_coded,
        quantizer.bytes_per_vector - 1,
        NUM_PAIRS=0 if frequencies is None else frequencies.numel(),
        PAIRING=_PAIRINGS[pairing],
        DIM=dim,
        TILE=tile,
        COORDINATES=coordinates,
        CHUNK=_CHUNK,
        PRECISION=precision_on(vectors.device),
        num_warps=_NUM_WARPS,
    )


def precision_on(device: torch.device) -> str:
    """How the basis is multiplied by: from Ampere on, tensor cores give float32 in three turns."""
    is_new = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "tf32x3" if is_new else "ieee"


def _head_stride(tensor: torch.Tensor | None, num_dims: int) -> int:
    """Steps from one head to the next; 0 where all have the same."""
    is_shared = tensor is None or tensor.dim() < num_dims or tensor.shape[0] == 1
    return 0 if is_shared else tensor.stride(0)


@functools.lru_cache(maxsize=1024)
def _tables(
    widths: tuple[int, ...], num_groups: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the kernel has to know of widths.

    Returns:
        Bits of each group, int32, and the step over the RMS for them, float32, [num_groups]; and
        where their bytes are, [digits + 1, num_groups], int32.
    """
    padded = [*filter(None, widths), *[0] * num_groups][:num_groups]
    units = [STEP_PER_RMS.get(width, 0.0) for width in padded]
    return (
        torch.tensor(padded, dtype=torch.int32, device=device),
        torch.tensor(units, device=device),
        _byte_places(padded).to(device),
    )


def _byte_places(widths: Sequence[int]) -> torch.Tensor:
    layout = CodeLayout.of(tuple(widths))
    places = torch.full((max(CODE_BITS) // 2 + 1, len(widths)), -1, dtype=torch.int32)
    for number, (group, digit) in enumerate(layout.words):
        places[digit, group] = WORD_BYTES * number
    for number, group in enumerate(layout.singles):
        places[-1, group] = WORD_BYTES * len(layout.words) + number
    return places
