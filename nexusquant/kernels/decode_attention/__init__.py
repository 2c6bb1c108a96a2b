"""Attention over packed pages and exact vectors in one softmax; on a GPU by kernels if they fit."""

from __future__ import annotations

import functools
import warnings

import torch

from nexusquant.kernels.backend import cuda_problem
from nexusquant.kernels.cuda_program import CudaError
from nexusquant.kernels.decode_attention import reference
from nexusquant.kernels.decode_attention.reference import PackedView
from nexusquant.lattice import MOST_KEY_BITS, MOST_VALUE_BITS

__all__ = ["LARGEST_DIM", "PackedView", "decode_problem", "packed_attention"]

LARGEST_DIM = 128
"""Values of a vector that kernels read from pages."""

_MOST_EXACT = 1024
"""More exact vectors are left to torch: there is room for these in most cases, and seldom need."""
_HALF_TYPES = (torch.float16, torch.bfloat16)


def packed_attention(
    query: torch.Tensor,
    packed: PackedView | None,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    num_exact: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend causally to packed vectors and to exact ones; see `reference.packed_attention`.

    On a GPU, one token's queries are compared with packed vectors by a kernel, and those of a
    prompt in 16 bits with vectors that a kernel rebuilds. Both multiply in 16 bits, so that logits
    err as those of any attention in 16 bits do.
    """
    arguments = (query, packed, exact_keys, exact_values, scaling, softcap, num_exact)
    if packed is not None and _has_kernel(query, packed):
        try:
            output = _by_kernel(*arguments)
        except CudaError as error:
            _warn(str(error))
        else:
            if output is not None:
                return output
    return reference.packed_attention(*arguments)


def _by_kernel(
    query: torch.Tensor,
    packed: PackedView,
    exact_keys: torch.Tensor,
    exact_values: torch.Tensor,
    scaling: float,
    softcap: float | None,
    num_exact: torch.Tensor | None,
) -> torch.Tensor | None:
    exact = (exact_keys, exact_values)
    if query.shape[1] == 1:
        if exact_keys.shape[1] > _MOST_EXACT:
            return None
        from nexusquant.kernels.decode_attention import launch

        output = launch.attend(query[:, 0], packed, *exact, scaling, softcap, num_exact=num_exact)
        return output.unsqueeze(1)
    if query.dtype not in _HALF_TYPES or softcap is not None or not _is_even(packed):
        return None
    from nexusquant.kernels.prefill_attention import launch as prefill

    return prefill.attend(query, packed, *(held.to(query.dtype) for held in exact), scaling)


@functools.cache
def _warn(problem: str) -> None:
    warnings.warn(
        f"A kernel cannot be used here ({problem}). Plain torch does its work, slowly.",
        stacklevel=3,
    )


def decode_problem(device: torch.device, head_dim: int) -> str | None:
    """Say why packed pages are read without kernels, or None if they are read with them.

    Args:
        device: Where the pages are.
        head_dim: Values of a key.
    """
    problem = cuda_problem(device)
    if problem is not None:
        return problem
    if head_dim > LARGEST_DIM:
        return f"vectors of {head_dim} values are too large for them"
    return None


def _has_kernel(query: torch.Tensor, packed: PackedView) -> bool:
    rotary = packed.rotary
    return (
        packed.positions.shape[1] > 0
        # frequencies that change along the text are rare enough for torch
        and (rotary is None or len(rotary.segments) == 1)
        and max(packed.key_quantizer.widths) <= MOST_KEY_BITS
        and max(packed.value_quantizer.widths) <= MOST_VALUE_BITS
        and decode_problem(query.device, packed.key_quantizer.dim) is None
    )


def _is_even(packed: PackedView) -> bool:
    # flash attention wants keys and values of one size
    return packed.key_quantizer.dim == packed.value_quantizer.dim
