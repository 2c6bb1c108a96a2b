"""The decode kernel in Triton's interpreter against the reference."""

from __future__ import annotations

import pytest
import torch
import triton.runtime.interpreter as interpreter
from decode_cases import CASES, DecodeCase, attended

from nexusquant.kernels.decode_attention.triton_launch import attend_packed

# the kernel multiplies in float16
CLOSE = 2e-3
# the interpreter takes logarithms of scales that mean nothing
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def loop_bounds_from_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy 2.4 takes no array of one number for a number, as the interpreter does."""
    patch = interpreter._patch_lang_tensor

    def patch_more(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_more)


def relative_error(case: DecodeCase, num_parts: int) -> float:
    view, query = case.view(), case.query()
    scaling = case.scaling(view)
    sums = attend_packed(query, view, scaling, case.softcap, num_parts=num_parts)
    actual = (sums.weighted / sums.total.unsqueeze(-1)).reshape(query.shape)
    expected = attended(view, query, scaling, case.softcap)
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case):
    assert relative_error(case, num_parts=2) < CLOSE


@pytest.mark.parametrize("num_parts", [1, 3, 5])
def test_the_number_of_parts_does_not_matter_not_even_empty_ones(num_parts):
    assert relative_error(CASES[0], num_parts) < CLOSE


def test_sums_can_be_joined_with_exact_vectors():
    case = CASES[0]
    view, query = case.view(), case.query()
    sums = attend_packed(query, view, 0.01, None, num_parts=2)
    for part in sums:
        assert part.isfinite().all()
    assert sums.total.shape == (2, case.groups)
    assert sums.weighted.shape == (2, case.groups, case.dim)
    assert torch.equal(sums.maximum, sums.maximum.float())
