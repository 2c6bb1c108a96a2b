"""The decode kernel on a real GPU against the reference, and a model that answers through it."""

from __future__ import annotations

import pytest
import torch
from decode_cases import CASES, DecodeCase, attended
from tiny_models import VOCABULARY, llama

import nexusquant
from nexusquant.config import PRESETS
from nexusquant.engine.prefill import forward
from nexusquant.kernels import decode_attention, triton_problem
from nexusquant.kernels.decode_attention import packed_attention, reference
from nexusquant.lattice import PackedVectors, Rotary, RotarySegment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda")
CLOSE = 2e-3


@pytest.fixture(autouse=True)
def kernels_are_used() -> None:
    assert triton_problem(GPU) is None


def to_gpu(view: reference.PackedView) -> reference.PackedView:
    from dataclasses import replace

    def moved(coder):
        names = ("basis", "row_units", "gains", "mean")
        held = {name: getattr(coder, name) for name in names}
        return replace(coder, **{n: t if t is None else t.to(GPU) for n, t in held.items()})

    segments = [RotarySegment(s.first, s.frequencies.to(GPU)) for s in view.rotary.segments]
    pools = (PackedVectors(*(t.to(GPU) for t in pool)) for pool in (view.keys, view.values))
    tensors = (t.to(GPU) for t in (view.page_table, view.lengths, view.positions))
    coders = (moved(view.key_quantizer), moved(view.value_quantizer))
    rotary = Rotary(segments, view.rotary.scaling)
    return reference.PackedView(
        *pools, *tensors, *coders, rotary, view.pairing, view.first_position
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: DecodeCase, dtype: torch.dtype) -> None:
    from nexusquant.kernels.decode_attention.triton_launch import attend_packed

    on_cpu, query = case.view(), case.query().to(dtype)
    view, scaling = to_gpu(on_cpu), case.scaling(on_cpu)
    sums = attend_packed(query.to(GPU), view, scaling, case.softcap)
    actual = (sums.weighted / sums.total.unsqueeze(-1)).reshape(query.shape)
    expected = attended(view, query.to(GPU), scaling, case.softcap)
    assert float((actual - expected).norm() / expected.norm()) < CLOSE


def test_a_long_text_equals_the_reference_with_exact_vectors_beside_it() -> None:
    case = DecodeCase(lengths=(40_000, 12_345), dim=128, rotary_dim=128, groups=4)
    view, query = to_gpu(case.view()), case.query().to(GPU)
    exact = [torch.randn(2, 33, 128, device=GPU) for _ in range(2)]
    arguments = (query.unsqueeze(1), view, *exact, case.scaling(case.view()))
    assert decode_attention._has_kernel(query.unsqueeze(1), view)
    actual, expected = packed_attention(*arguments), reference.packed_attention(*arguments)
    assert float((actual - expected).norm() / expected.norm()) < CLOSE


@pytest.mark.parametrize("preset", ["safe", "high", "max"])
def test_a_model_answers_through_the_kernel_as_through_the_reference(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama().to(GPU)
    ids = torch.randint(0, VOCABULARY, (1, 1500), generator=torch.Generator().manual_seed(0))
    logits = []
    for has_kernel in (True, False):
        if not has_kernel:
            monkeypatch.setattr(decode_attention, "_has_kernel", lambda *_: False)
        cache = nexusquant.prefill(model, ids[:, :1490], PRESETS[preset])
        logits.append([forward(model, ids[:, i : i + 1].to(GPU), cache) for i in range(1490, 1500)])
    for one, other in zip(*logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)
