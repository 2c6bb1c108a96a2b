"""What a kernel knows of a coder, of its rotation and of its shape. Imports no CUDA."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from nexusquant.kernels.cuda_program import CudaError, CudaKernel, cuda_kernel
from nexusquant.kernels.tiles.fragments import KeyFragments, key_fragments, phases_per_token
from nexusquant.kernels.tiles.terms import CodeShape, key_terms
from nexusquant.lattice import E8Quantizer, Pairing, Rotary

TILES = (Path(__file__).parents[1] / "types.cu", Path(__file__).parent / "tiles.cu")
"""In front of every program that takes codes apart."""

_ROOM = 16
"""Programs are made for bytes of a vector in steps of this."""

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""Numbers of types in the programs."""


class CoderTables(NamedTuple):
    """Of the vectors of a layer, beside their codes.

    Args:
        fragments: Rows of their digits.
        mean: [H, D], or None.
        columns: Of the left half, then of the right one, which turn together; -1: none.
            [2 * half], int32.
        speeds: Turns a token of each pair, in 32 bits. [half], int32.
        growth: Factor that the rotation has.
        arrivals: Of each head's blocks, in a kernel that counts them; all launches move
            them by as much. So a coder's vectors are for one stream at a time. [H], int32.
    """

    fragments: KeyFragments
    mean: torch.Tensor | None
    columns: torch.Tensor
    speeds: torch.Tensor
    growth: float
    arrivals: torch.Tensor


class _MadeFor(NamedTuple):
    """What tables are for, beside their coder; frequencies are the same only as one tensor."""

    frequencies: torch.Tensor | None
    num_kv_heads: int
    pairing: Pairing

    def is_same(self, other: _MadeFor) -> bool:
        return self.frequencies is other.frequencies and self[1:] == other[1:]


# a coder's tables live as long as it does
_TABLES: weakref.WeakKeyDictionary[E8Quantizer, tuple[_MadeFor, CoderTables]] = (
    weakref.WeakKeyDictionary()
)


def coder_tables(
    quantizer: E8Quantizer,
    num_kv_heads: int,
    rotary: Rotary | None = None,
    pairing: Pairing = Pairing.NONE,
) -> CoderTables:
    """Tables of a layer's vectors, made once for a coder, its heads and its rotation."""
    frequencies = None if rotary is None else rotary.segments[0].frequencies
    made_for = _MadeFor(frequencies, num_kv_heads, pairing)
    found = _TABLES.get(quantizer)
    if found is None or not found[0].is_same(made_for):
        found = made_for, _made(quantizer, num_kv_heads, rotary, pairing)
        _TABLES[quantizer] = found
    return found[1]


@functools.lru_cache(maxsize=256)
def table_bytes(widths: tuple[int, ...], num_kv_heads: int) -> int:
    """What `coder_tables` holds of a layer with a basis for each head, but for a few numbers.

    Args:
        widths: Of its coder.
        num_kv_heads: Heads.
    """
    dim = 8 * len(widths)
    half, num_terms = -(-dim // 16) * 8, len(key_terms(widths))
    of_head = half * num_terms * 2 + half * 16 + dim * 4
    return num_kv_heads * of_head


def shape_macros(quantizer: E8Quantizer, num_tiles: int) -> dict[str, int]:
    """What `tiles.cu` has to know of a coder, but for WARPS.

    Args:
        quantizer: The coder.
        num_tiles: Sixteens of vectors that a warp takes at once.
    """
    dim, num_bytes = quantizer.dim, quantizer.bytes_per_vector - 1
    shape = CodeShape.of(quantizer.widths)
    return {
        "KEY_ROWS": shape.rows,
        "KEY_DIGITS": shape.digits,
        "KEY_ROOM": -(-num_bytes // _ROOM) * _ROOM,
        "KEY_IS_EVEN": num_bytes % 2 == 0,
        "HALF": -(-dim // 16) * 8,
        "DIM": dim,
        "M_TILES": num_tiles,
    }


class FittingKernel(NamedTuple):
    """A kernel that fits the device, with its warps and the bytes of shared memory of a block."""

    kernel: CudaKernel
    num_warps: int
    shared_bytes: int


def fitting_kernel(
    paths: tuple[Path, ...],
    name: str,
    macros: Mapping[str, int],
    warps: Sequence[int],
    device: torch.device,
    own_bytes: Callable[[CudaKernel, int], int] = lambda *_: 0,
) -> FittingKernel:
    """The kernel with the most warps that fits.

    Args:
        paths: The program.
        name: The kernel.
        macros: Of the program, but for WARPS.
        warps: Of a block, which share its basis, from most to fewest.
        device: Where it will run.
        own_bytes: Of shared memory for a kernel and its warps, beside what the program says.

    Raises:
        CudaError: A block has too little shared memory for any.
    """
    most = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    for num_warps in warps:
        given = (*macros.items(), ("WARPS", num_warps))
        kernel = cuda_kernel(paths, name, given, device)
        needed = kernel.constant("shared_bytes") + own_bytes(kernel, num_warps)
        if needed <= most:
            return FittingKernel(kernel, num_warps, needed)
    raise CudaError(f"{name} needs {needed:,} bytes of shared memory; a block has {most:,}")


def _made(
    quantizer: E8Quantizer, num_kv_heads: int, rotary: Rotary | None, pairing: Pairing
) -> CoderTables:
    device, dim = quantizer.basis.device, quantizer.dim
    half = -(-dim // 16) * 8
    frequencies, scaling = torch.zeros(0, device=device), 1.0
    if rotary is not None and pairing is not Pairing.NONE:
        frequencies, scaling = rotary.segments[0].frequencies.to(device), float(rotary.scaling)
    num_pairs = frequencies.numel()
    columns = _columns(dim, num_pairs, pairing, half).to(device)
    speeds = torch.nn.functional.pad(phases_per_token(frequencies), (0, half - num_pairs))
    basis, factors, places, sizes = key_fragments(quantizer, columns)
    of_heads = [
        table.expand(num_kv_heads, *table.shape[1:]).contiguous()
        for table in (basis, factors, sizes)
    ]
    fragments = KeyFragments(of_heads[0], of_heads[1], places, of_heads[2])
    mean = quantizer.mean
    if mean is not None:
        mean = mean.reshape(-1, dim).expand(num_kv_heads, dim).contiguous()
    arrivals = torch.zeros(num_kv_heads, dtype=torch.int32, device=device)
    return CoderTables(fragments, mean, columns, speeds.contiguous(), scaling, arrivals)


def _columns(dim: int, num_pairs: int, pairing: Pairing, half: int) -> torch.Tensor:
    every = torch.arange(dim, dtype=torch.int32)
    turned, rest = every[: 2 * num_pairs], every[2 * num_pairs :]
    if pairing is Pairing.NEIGHBOURS:
        left, right = turned[::2], turned[1::2]
    else:
        left, right = turned[:num_pairs], turned[num_pairs:]
    middle = -(-rest.numel() // 2)
    table = torch.full((2, half), -1, dtype=torch.int32)
    table[0, : num_pairs + middle] = torch.cat([left, rest[:middle]])
    table[1, : num_pairs + rest.numel() - middle] = torch.cat([right, rest[middle:]])
    return table.flatten()
