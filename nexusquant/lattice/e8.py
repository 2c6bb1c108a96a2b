"""The E8 lattice: its nearest point and its membership test. Knows no codes, boxes or scales."""

from __future__ import annotations

import torch
from torch import Tensor

DIM = 8
"""Coordinates of one lattice point."""


def nearest_point(x: Tensor) -> Tensor:
    """Find the E8 point with the smallest Euclidean distance to each subvector.

    E8 is D8 (integers with an even sum) together with D8 shifted by one half everywhere; the
    answer is the nearer of the nearest points of both.

    Args:
        x: Points of space. [..., 8], floating.

    Returns:
        Lattice points: all coordinates integer or all half-odd, with an even sum. [..., 8],
        dtype of `x`.

    Raises:
        ValueError: The last dimension is not 8.

    Reference:
        Conway and Sloane, Fast quantizing and decoding algorithms for lattice quantizers and
        codes, IEEE Trans. Inform. Theory 28(2), 1982, sections 4 and 5.
    """
    _check_last_dim(x)
    integer = _nearest_in_d8(x)
    half_odd = _nearest_in_d8(x - 0.5) + 0.5
    is_half_odd_nearer = _squared_distance(x, half_odd) < _squared_distance(x, integer)
    return torch.where(is_half_odd_nearer, half_odd, integer)


def is_lattice_point(x: Tensor) -> Tensor:
    """Tell which subvectors are points of E8.

    Args:
        x: Points of space. [..., 8], floating.

    Returns:
        True where the point belongs to E8. [...], bool.

    Raises:
        ValueError: The last dimension is not 8.
    """
    _check_last_dim(x)
    doubled = 2 * x
    is_on_half_grid = (doubled == doubled.round()).all(dim=-1)
    is_odd = doubled.remainder(2)
    is_one_coset = (is_odd == is_odd[..., :1]).all(dim=-1)
    return is_on_half_grid & is_one_coset & (x.sum(dim=-1).remainder(2) == 0)


def _nearest_in_d8(x: Tensor) -> Tensor:
    rounded = x.round()
    residual = x - rounded
    # an odd sum is mended where rounding the other way costs least
    index = residual.abs().argmax(dim=-1, keepdim=True)
    other_way = torch.where(residual.gather(-1, index) < 0, -1.0, 1.0).to(x.dtype)
    is_sum_odd = rounded.sum(dim=-1, keepdim=True).remainder(2) != 0
    return rounded.scatter_add(-1, index, other_way * is_sum_odd)


def _squared_distance(x: Tensor, point: Tensor) -> Tensor:
    return (x - point).square().sum(dim=-1, keepdim=True)


def _check_last_dim(x: Tensor) -> None:
    if x.shape[-1:] != (DIM,):
        raise ValueError(f"x has shape {tuple(x.shape)}; the last dimension must be {DIM}.")
