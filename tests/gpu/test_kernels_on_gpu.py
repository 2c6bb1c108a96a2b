"""Kernels compiled and run on a real GPU equal their references."""

from __future__ import annotations

import pytest
import torch

from nexusquant.kernels import triton_problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda")


def test_triton_builds_and_runs_a_kernel_here() -> None:
    assert triton_problem(GPU) is None
