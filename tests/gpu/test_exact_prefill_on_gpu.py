"""A chunk of a prompt over exact vectors: the kernels that need no mask give what a mask gives."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from nexusquant.kernels import attend_exactly
from nexusquant.kernels.prefill_attention import exact

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    ("num_new", "num_past"), [(1024, 1024), (2048, 6144), (2048, 1000), (300, 2048), (7, 1)]
)
def test_it_is_causal_and_sees_all_that_is_older(
    dtype: torch.dtype, dim: int, num_new: int, num_past: int
) -> None:
    torch.manual_seed(num_past)
    end = num_past + num_new
    # as a model makes queries, and with memory after the vectors for those to come
    query = torch.randn(1, num_new, 8, dim, device="cuda", dtype=dtype).transpose(1, 2)
    room = torch.full((2, 1, 2, end + 77, dim), float("nan"), device="cuda", dtype=dtype)
    room[:, :, :, :end] = torch.randn(2, 1, 2, end, dim, device="cuda")
    key, value = room[:, :, :, :end]
    actual = attend_exactly(query, key, value, 0.1).float()
    index = torch.arange(end, device="cuda")
    mask = index <= index[num_past:, None]
    wide = (one.float().repeat_interleave(4, dim=1) for one in (key, value))
    expected = scaled_dot_product_attention(query.float(), *wide, attn_mask=mask, scale=0.1)
    assert (actual - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm()


def test_without_a_kernel_nothing_is_given() -> None:
    query, key = (torch.randn(1, 2, count, 64, device="cuda") for count in (5, 9))
    assert attend_exactly(query, key, key, 0.1) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_parts_put_together_are_the_whole(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, count, 128, device="cuda", dtype=dtype)
        for heads, count in ((8, 1024), (2, 3072), (2, 3072))
    )
    older, own = ((key[:, :, part], value[:, :, part]) for part in (slice(2048), slice(2048, None)))
    try:
        actual = exact._by_parts(query, older, own, 0.1).float()
    except RuntimeError:
        pytest.skip("cuDNN has no attention for this card")
    bias = causal_lower_right(1024, 3072)
    options = {"attn_mask": bias, "scale": 0.1, "enable_gqa": True}
    expected = scaled_dot_product_attention(query, key, value, **options).float()
    assert (actual - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm()


def test_shapes_that_come_again_are_left_to_cudnn_where_torch_prefers_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if torch.cuda.get_device_capability() != (9, 0) or not torch.backends.cudnn.is_available():
        pytest.skip("torch prefers cuDNN's attention on other cards than this one")
    asked = []

    def by_parts(query: torch.Tensor, *args: object) -> torch.Tensor:
        asked.append(query.shape[2])
        return query

    monkeypatch.setattr(exact, "_by_parts", by_parts)
    for num_new, num_past in ((2048, 6144), (2048, 1000), (300, 2100)):
        query = torch.randn(1, 8, num_new, 128, device="cuda", dtype=torch.bfloat16)
        held = torch.randn(2, 1, 2, num_past + num_new, 128, device="cuda", dtype=torch.bfloat16)
        attend_exactly(query, *held, 0.1)
    assert asked == [2048]
