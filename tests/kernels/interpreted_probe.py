from __future__ import annotations

import pytest
import torch

from nexusquant.kernels.triton_probe import double


@pytest.mark.parametrize("count", [1, 63, 64, 65, 129])
def test_the_probe_doubles_every_number(count):
    numbers = torch.arange(count, dtype=torch.int32) - 7
    assert torch.equal(double(numbers), 2 * numbers)
