"""What a model does with one token between one attention and the next, each thing in one kernel.

A model does it in several steps, with a number in memory after each; for one token, starting them
and writing to memory take longer than the work. On a GPU each is one kernel, elsewhere plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nexusquant.kernels.backend import triton_problem
from nexusquant.kernels.one_token import reference

__all__ = ["gated_one", "linear_one", "norm_one", "projections_one", "rotate_one"]


def norm_one(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide by the root of the mean square; see `reference.norm_one`.

    Args:
        x: [..., D], floating, contiguous.
        weight: [D], of the same type.
        eps: Added to the mean square.

    Returns:
        As `x`.
    """
    return _best(x).norm_one(x, weight, eps)


def rotate_one(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn a token's queries and keys to its position; see `reference.rotate_one`.

    Args:
        query: [1, H, 1, D], floating, each head's values side by side.
        key: [1, H_kv, 1, D], likewise.
        cos: [1, 1, R] for the first R values of a head, contiguous, of the same type.
        sin: [1, 1, R], likewise.

    Returns:
        Both, contiguous.
    """
    return _best(query).rotate_one(query, key, cos, sin)


def linear_one(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply one vector by a matrix; see `reference.linear_one`.

    Args:
        x: [..., K] with K values in all, contiguous.
        weight: [N, K] of the same type, contiguous.
        bias: [N], likewise, or None.

    Returns:
        [..., N].
    """
    return _best(x).linear_one(x, weight, bias)


def projections_one(
    x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """Multiply one vector by the matrices that make a token's query, key and value.

    Args:
        x: [..., K] with K values in all, contiguous.
        weights: Three, [N, K] each with rows of its own, of the same type, contiguous.
        biases: Three, [N] each, likewise; or None three times.

    Returns:
        [..., N] each; see `reference.projections_one`.
    """
    return _best(x).projections_one(x, weights, biases)


def gated_one(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Multiply one vector by two matrices, and one result by the SiLU of the other.

    Args:
        x: [..., K] with K values in all, contiguous.
        gate: [N, K] of the same type, contiguous.
        up: [N, K], likewise.

    Returns:
        [..., N]; see `reference.gated_one`.
    """
    return _best(x).gated_one(x, gate, up)


def _best(x: torch.Tensor) -> object:
    if triton_problem(x.device) is not None:
        return reference
    from nexusquant.kernels.one_token import triton_launch

    return triton_launch
