from __future__ import annotations

import pytest
import torch
from hold_cases import hold_case

from nexusquant.kernels.hold import reference, triton_launch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("slot", [0, 7, 20])
def test_a_token_is_held_where_the_device_says_and_nothing_else_changes(dtype, slot):
    new, held, means = hold_case(dtype)
    copies = tuple(buffer.clone() for buffer in held)
    place = torch.tensor([slot])
    actual = triton_launch.hold_token(new, place, held, means)
    expected = reference.hold_token(new, place, copies, means)
    assert torch.equal(actual, expected)
    for buffer, copy in zip(held, copies, strict=True):
        assert torch.equal(buffer, copy)


def test_what_float16_cannot_hold_becomes_its_largest_number():
    (key, value), held, means = hold_case(torch.float32)
    key[0, 0, 3], value[1, 0, 5] = 1e30, -1e30
    wide = triton_launch.hold_token((key, value), torch.tensor([4]), held, means)
    assert held[0][0, 4, 3] == 65504
    assert held[1][1, 4, 5] == -65504
    assert wide.isfinite().all()
