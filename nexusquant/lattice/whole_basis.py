"""A basis in whole numbers of 8 bits. Knows rows and groups of eight; knows no codes and no models.

GPUs multiply such numbers fastest, and without rounding. What a code adds to a whole group, half a
step to all eight or quarters that centre them, has to be whole too: rows are rounded so that it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nexusquant.lattice.e8 import DIM

# of a row's largest number, in units: what 8 bits hold, less what rounding may add
_LEAST_STEP, _LARGEST_STEP = 4, 125


def whole_basis(rows: Tensor, num_coded: int) -> tuple[Tensor, Tensor, Tensor]:
    """Round rows to whole numbers of units.

    Args:
        rows: The basis. [..., D, D], float32.
        num_coded: Rows that are stored, the first ones; the size of the others does not matter.

    Returns:
        The basis [..., D, D], int8; the units of its columns, powers of two times the first
        [..., D]; and what each row was multiplied by, so that no step rounds to nothing [..., D].
    """
    num_coded = max(num_coded, DIM)
    units = _column_units(rows[..., :num_coded, :])
    steps = rows / units.unsqueeze(-2)
    largest = steps.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30)
    sizes = (_LEAST_STEP / largest).clamp(min=1)
    sizes[..., num_coded:, :] = _LARGEST_STEP / largest[..., num_coded:, :]
    return _round_rows(steps * sizes).to(torch.int8), units, sizes.squeeze(-1)


def _column_units(rows: Tensor) -> Tensor:
    """Units in which the numbers of rows [..., C, D] fit 8 bits. [..., D]."""
    units = rows.abs().amax(dim=-2).clamp(min=1e-30) / _LARGEST_STEP
    head = units[..., :1]
    return head * torch.exp2((units / head).log2().ceil())


def _round_rows(steps: Tensor) -> Tensor:
    """Round rows so that what a code adds to all eight of a group is whole in every column.

    Those are the half step of an odd sum, and the offset of the centre in quarters of a step.
    Both are if the sum of the eight numbers, the first one counted three times, divides by 4.
    """
    groups = steps.unflatten(-2, (-1, DIM))
    rounded = groups.round().clamp(-_LARGEST_STEP, _LARGEST_STEP)
    missing = (rounded.sum(dim=-2) + 2 * rounded[..., 0, :]).neg().remainder(4)
    # one step up or down, or two up: where it is nearest, and not in the first
    up = (missing == 1) | (missing == 2)
    residual = (groups - rounded) * torch.where(up, 1, -1).unsqueeze(-2)
    residual[..., 0, :] = -torch.inf
    nearest = residual.topk(2, dim=-2).indices
    move = torch.where(up, 1.0, -1.0).masked_fill_(missing == 0, 0).unsqueeze(-2)
    rounded = rounded.scatter_add(-2, nearest[..., :1, :], move)
    second = move.masked_fill((missing != 2).unsqueeze(-2), 0)
    return rounded.scatter_add(-2, nearest[..., 1:, :], second).flatten(-3, -2)
