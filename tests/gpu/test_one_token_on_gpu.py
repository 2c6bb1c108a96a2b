"""One token's way through a layer: kernels on a real GPU equal their references."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from one_token_cases import (
    assert_one_rounding_apart,
    matrix_case,
    norm_case,
    rotation_case,
)
from transformers import DynamicCache

from nexusquant.cache import OneTokenForwards
from nexusquant.kernels.one_token import reference, triton_launch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
each_type = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def on_gpu(case: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [tensor.cuda() for tensor in case]


@each_type
@pytest.mark.parametrize(("num_rows", "dim"), [(1, 4096), (1, 5120), (32, 128), (3, 100)])
def test_a_norm(dtype: torch.dtype, num_rows: int, dim: int) -> None:
    given = (*on_gpu(norm_case(dtype, num_rows, dim)), 1e-5)
    assert_one_rounding_apart(triton_launch.norm_one(*given), reference.norm_one(*given))


@each_type
@pytest.mark.parametrize(("dim", "turned"), [(64, 64), (128, 128), (96, 48)])
def test_a_rotation_of_strided_heads(dtype: torch.dtype, dim: int, turned: int) -> None:
    cpu = rotation_case(dtype, dim, turned)
    # with the gaps between heads
    given = [tensor.cuda() if tensor.is_contiguous() else spread(tensor) for tensor in cpu]
    for actual, expected in zip(
        triton_launch.rotate_one(*given), reference.rotate_one(*given), strict=True
    ):
        assert torch.equal(actual, expected)


def spread(heads: torch.Tensor) -> torch.Tensor:
    wide = torch.full((*heads.shape[:3], heads.shape[3] + 16), float("nan"), dtype=heads.dtype)
    wide[..., : heads.shape[3]] = heads
    return wide.cuda()[..., : heads.shape[3]]


@each_type
@pytest.mark.parametrize(
    ("num_rows", "width"), [(4096, 4096), (1024, 4096), (4096, 14_336), (2051, 896), (7, 100)]
)
def test_products_with_matrices(dtype: torch.dtype, num_rows: int, width: int) -> None:
    x, gate, up, bias = on_gpu(matrix_case(dtype, num_rows, width))
    for given in ((x, gate), (x, gate, bias)):
        # both against sums in float64
        expected = reference.linear_one(*(tensor.double() for tensor in given)).to(dtype)
        assert_one_rounding_apart(triton_launch.linear_one(*given), expected)
    parts = [tensor.split((num_rows // 2, num_rows - num_rows // 2)) for tensor in (gate, bias)]
    given = [(*halves, whole) for halves, whole in zip(parts, (gate, bias), strict=True)]
    made = triton_launch.projections_one(x, *given)
    assert torch.equal(torch.cat(made[:2], dim=-1), made[2])
    assert torch.equal(made[2], triton_launch.linear_one(x, gate, bias))
    x = x / width**0.5
    opened, passed = (
        reference.linear_one(x.double(), weight.double()).to(dtype) for weight in (gate, up)
    )
    expected = torch.nn.functional.silu(opened) * passed
    assert_one_rounding_apart(triton_launch.gated_one(x, gate, up), expected, num_roundings=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_gives_the_same_logits(dtype: torch.dtype) -> None:
    model = tiny_models.smollm_shaped().to("cuda", dtype)
    forwards = OneTokenForwards(model)
    assert forwards.num_replaced > 2 * model.config.num_hidden_layers
    prompt, token = tiny_models.token_ids(20).cuda(), tiny_models.token_ids(1).cuda()

    def logits() -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(prompt, past_key_values=cache)
            return model(token, past_key_values=cache).logits.float()

    expected = logits()
    with forwards.in_force():
        actual = logits()
    near = 1e-5 if dtype == torch.float32 else 0.02
    assert (actual - expected).norm() <= near * expected.norm()
