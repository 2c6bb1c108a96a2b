"""The second reading on a GPU multiplies 16-bit vectors, and gives what float32 gives on a CPU."""

from __future__ import annotations

import pytest
import torch

from nexusquant.eviction import attend_and_score

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 80, 128])
@pytest.mark.parametrize("lengths", [(528, 520), (17, 3)])
def test_narrow_products_are_those_of_float32(
    lengths: tuple[int, int], dim: int, dtype: torch.dtype, softcap: float | None
) -> None:
    torch.manual_seed(dim)
    num_past, num_own = lengths
    # as a model makes queries; keys of sinks may be wider than the others
    query = torch.randn(num_own, 6, dim, device="cuda").to(dtype).transpose(0, 1)
    past = [torch.randn(2, num_past, dim, device="cuda").to(dtype) for _ in range(2)]
    own = [torch.randn(2, num_own, dim, device="cuda").to(dtype) for _ in range(2)]
    output, scores = attend_and_score(query, (past[0].float(), past[1]), own, 0.2, softcap)
    on_cpu = [held.cpu().float() for held in (query, *past, *own)]
    expected = attend_and_score(on_cpu[0], on_cpu[1:3], on_cpu[3:], 0.2, softcap)
    assert output.dtype is dtype
    eps = torch.finfo(dtype).eps
    assert (output.cpu().float() - expected[0]).norm() <= 2 * eps * expected[0].norm()
    torch.testing.assert_close(scores.cpu(), expected[1], rtol=1e-3, atol=1e-6)
