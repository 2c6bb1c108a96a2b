"""Distortion of the box code on Gaussian data, and the scalar quantizer it has to beat."""

import torch

from nexusquant.lattice import STEP_PER_RMS, decode_box, encode_box

LLOYD_MAX_MSE = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}
"""Best scalar quantizers of a unit Gaussian: Max, IRE Trans. Inform. Theory 6(1), 1960, table I."""

UNIFORM_MSE = {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154}
"""Best scalar quantizers with equal steps: the same paper, table II."""


def samples(num_subvectors):
    """Unit Gaussian subvectors, always the same. [num_subvectors, 8]."""
    return torch.randn(num_subvectors, 8, generator=torch.Generator().manual_seed(8))


def box_mse(x, bits, factor=1.0):
    """Squared error per value when the step is `factor` times the chosen one."""
    step = STEP_PER_RMS[bits] * factor
    decoded = decode_box(encode_box(x / step, bits), bits) * step
    return float((decoded - x).square().mean())
