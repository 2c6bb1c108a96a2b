"""The basis in which keys are coded: fitted to how keys vary and to how much each error costs.

Knows covariances and widths; knows no models and no codes beyond their step. A change d of a key
costs about d' W d / 2 (W: mean outer product of the loss's gradients by keys, the Fisher matrix).
In coordinates where W is the unit matrix, the eigenbasis of the keys' covariance (Karhunen-Loeve)
and reverse water-filling (Cover & Thomas, Elements of Information Theory, section 10.3) make the
cost least for a number of bits (`share_bits`). Costs of all layers are in one unit, so bits compete
over layers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nexusquant.lattice.box_code import STEP_PER_RMS
from nexusquant.lattice.e8 import DIM
from nexusquant.lattice.quantizer import E8Quantizer
from nexusquant.lattice.rotation import hadamard

COST_FLOOR = 0.3
"""Share of the mean cost that every direction of a head is given: queries to come differ, and few
gradients were drawn."""

SPREAD_FLOOR = 1e-5
"""Share of the mean variance that every direction of a head has at least."""

_LEAST_ROW, _LEAST_FLOOR = 1e-3, 1e-20


class KeyBasis(NamedTuple):
    """The basis of one layer, before bits are shared out.

    Args:
        mean: Mean key. [H_kv, 1, D], float32.
        rows: What one unit of each coordinate adds to a key. [H_kv, D, D], float32.
        variances: Mean variance of each eight coordinates, in units of cost, falling.
            [H_kv, D / 8], float32.
    """

    mean: Tensor
    rows: Tensor
    variances: Tensor


def fit_key_basis(mean: Tensor, covariance: Tensor, cost: Tensor) -> KeyBasis:
    """Find the coordinates in which bits are worth most.

    Each eight coordinates of the eigenbasis are mixed by a Hadamard matrix: that makes them
    alike, as the code expects, and its errors of one token and another independent.

    Args:
        mean: Mean key. [H_kv, D].
        covariance: Covariance of the keys. [H_kv, D, D].
        cost: Outer products of what an error meets, gradients or queries: their mean, or sums over
            as many of them in every layer. [H_kv, D, D].
    """
    spread = _with_floor(covariance.double(), SPREAD_FLOOR)
    values, vectors = torch.linalg.eigh(_with_floor(cost.double(), COST_FLOOR))
    root = (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT
    inverse_root = (vectors * values.rsqrt().unsqueeze(-2)) @ vectors.mT
    variances, eigenvectors = torch.linalg.eigh(root @ spread @ root)
    # largest first
    variances, eigenvectors = variances.flip(-1), eigenvectors.flip(-1)
    dim = mean.shape[-1]
    mixing = torch.block_diag(*[hadamard(DIM)] * (dim // DIM)).to(root)
    rows = mixing @ eigenvectors.mT @ inverse_root
    by_group = variances.clamp(min=0).unflatten(-1, (-1, DIM)).mean(dim=-1)
    return KeyBasis(mean.float().unsqueeze(-2), rows.float(), by_group.float())


def key_quantizer(basis: KeyBasis, widths: tuple[int, ...]) -> E8Quantizer:
    """Make the coder of one layer's keys, on the CPU.

    Args:
        basis: The layer's basis.
        widths: Bits of its groups, as `share_bits` gives them.
    """
    # what is not stored needs no step
    steps = torch.tensor([STEP_PER_RMS.get(width, 1.0) for width in widths])
    gains = basis.variances.cpu().sqrt() * steps
    rows = basis.rows.cpu() * gains.repeat_interleave(DIM, dim=-1).unsqueeze(-1)
    # a head whose keys never varied must still be able to say that they do now
    largest = rows.norm(dim=-1).amax(dim=-1)
    rows = rows * (_LEAST_ROW / largest).clamp(min=1)[:, None, None]
    # only proportions matter inside a head, and costs may be in any unit
    gains = gains / gains.amax(dim=-1, keepdim=True)
    return E8Quantizer.of_rows(widths, rows, gains, basis.mean.cpu())


def _with_floor(matrix: Tensor, share: float) -> Tensor:
    size = matrix.shape[-1]
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    unit = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    return matrix + (share * mean + _LEAST_FLOOR) * unit
