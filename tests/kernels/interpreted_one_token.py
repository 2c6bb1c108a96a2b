from __future__ import annotations

import pytest
import torch
from one_token_cases import (
    assert_one_rounding_apart,
    matrix_case,
    norm_case,
    rotation_case,
)

from nexusquant.kernels.one_token import reference, triton_launch

# the interpreter cuts bfloat16 off instead of rounding it
DTYPE = torch.float16


@pytest.mark.parametrize(("num_rows", "dim"), [(1, 576), (5, 128), (3, 100)])
def test_a_norm(num_rows, dim):
    given = (*norm_case(DTYPE, num_rows, dim), 1e-5)
    assert_one_rounding_apart(triton_launch.norm_one(*given), reference.norm_one(*given))


@pytest.mark.parametrize(("dim", "turned"), [(64, 64), (96, 96), (80, 32)])
def test_a_rotation_of_strided_heads(dim, turned):
    given = rotation_case(DTYPE, dim, turned)
    for actual, expected in zip(
        triton_launch.rotate_one(*given), reference.rotate_one(*given), strict=True
    ):
        assert actual.is_contiguous()
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(("num_rows", "width"), [(64, 512), (7, 100), (2050, 72)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_with_a_matrix(num_rows, width, has_bias):
    x, weight, _, bias = matrix_case(DTYPE, num_rows, width)
    given = (x, weight, bias if has_bias else None)
    assert_one_rounding_apart(triton_launch.linear_one(*given), reference.linear_one(*given))


@pytest.mark.parametrize("counts", [(64, 16, 16), (7, 3, 5)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_projections_of_one_vector(counts, has_bias):
    x, weight, _, bias = matrix_case(DTYPE, sum(counts), 100)
    biases = bias.split(counts) if has_bias else (None, None, None)
    given = (x, weight.split(counts), biases)
    for actual, expected in zip(
        triton_launch.projections_one(*given), reference.projections_one(*given), strict=True
    ):
        assert_one_rounding_apart(actual, expected)


@pytest.mark.parametrize(("num_rows", "width"), [(64, 512), (7, 100), (2050, 72)])
def test_a_gate(num_rows, width):
    x, gate, up, _ = matrix_case(DTYPE, num_rows, width)
    actual = triton_launch.gated_one(x, gate, up)
    # both products, the gate and the last one are rounded
    assert_one_rounding_apart(actual, reference.gated_one(x, gate, up), num_roundings=4)
