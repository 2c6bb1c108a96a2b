"""The decode kernel on a real GPU against the reference, and a model that answers through it."""

from __future__ import annotations

import pytest
import torch
from decode_cases import CASES, DecodeCase
from tiny_models import VOCABULARY, llama

import nexusquant
from nexusquant.config import PRESETS
from nexusquant.engine.prefill import forward
from nexusquant.kernels import decode_attention, decode_problem
from nexusquant.kernels.decode_attention import packed_attention, reference
from nexusquant.kernels.tiles.coder_tables import coder_tables
from nexusquant.lattice import PackedVectors, Rotary, RotarySegment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda")
CLOSE = 2e-3


@pytest.fixture(autouse=True)
def kernels_are_used() -> None:
    assert decode_problem(GPU, 128) is None


def to_gpu(view: reference.PackedView) -> reference.PackedView:
    segments = [RotarySegment(s.first, s.frequencies.to(GPU)) for s in view.rotary.segments]
    pools = (PackedVectors(*(t.to(GPU) for t in pool)) for pool in (view.keys, view.values))
    tensors = (t.to(GPU) for t in (view.page_table, view.lengths, view.positions))
    coders = (view.key_quantizer.to(GPU), view.value_quantizer.to(GPU))
    rotary = Rotary(segments, view.rotary.scaling)
    return reference.PackedView(
        *pools, *tensors, *coders, rotary, view.pairing, view.first_position
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: DecodeCase, dtype: torch.dtype) -> None:
    view, query = to_gpu(case.view()), case.query().to(GPU, dtype).unsqueeze(1)
    scaling = case.scaling(case.view())
    for num_exact in (1, 33):
        exact = [torch.randn(len(case.lengths), num_exact, case.dim, device=GPU) for _ in range(2)]
        arguments = (view, *exact, scaling, case.softcap)
        actual = packed_attention(query, *arguments)
        expected = reference.packed_attention(query.float(), *arguments)
        assert apart(actual, expected) < CLOSE


@pytest.mark.parametrize("num_parts", [1, 3, 40])
def test_parts_of_any_number_are_joined(num_parts: int) -> None:
    from nexusquant.kernels.decode_attention.launch import attend

    case = DecodeCase(lengths=(700, 1), is_whole=False)
    view, query, scaling = to_gpu(case.view()), case.query().to(GPU), case.scaling(case.view())
    exact = [torch.randn(2, 5, 64, device=GPU) for _ in range(2)]
    actual = attend(query, view, *exact, scaling, num_parts=num_parts)
    expected = reference.packed_attention(query.unsqueeze(1), view, *exact, scaling)[:, 0]
    assert apart(actual, expected) < CLOSE


@pytest.mark.parametrize("waits", [False, True])
def test_blocks_that_wait_and_blocks_that_do_not_give_the_same(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexusquant.kernels.decode_attention import launch

    monkeypatch.setattr(launch, "starts_cooperative", lambda _: waits)
    case = DecodeCase(lengths=(700, 130, 65), dim=128, rotary_dim=128, groups=4, is_whole=False)
    view, scaling = to_gpu(case.view()), case.scaling(case.view())
    exact = [torch.randn(3, 68, 128, device=GPU) for _ in range(2)]
    # one after the other over the same counters, each with an answer of its own
    for num_parts in (4, 3, 1, None):
        query = case.query().to(GPU).roll(7 * (num_parts or 2))
        expected = reference.packed_attention(query.unsqueeze(1), view, *exact, scaling)[:, 0]
        actual = launch.attend(query, view, *exact, scaling, num_parts=num_parts)
        assert apart(actual, expected) < CLOSE
        tables = coder_tables(view.key_quantizer, 3, view.rotary, view.pairing)
        # every launch moves them by as much, whatever its number of blocks
        assert not (tables.arrivals % 2**16).any()


def test_exact_vectors_past_their_number_are_not_seen() -> None:
    from nexusquant.kernels.decode_attention.launch import attend

    case = DecodeCase(lengths=(70, 64))
    view, query, scaling = to_gpu(case.view()), case.query().to(GPU), case.scaling(case.view())
    exact = [torch.randn(2, 5, 64, device=GPU) for _ in range(2)]
    room = [torch.nn.functional.pad(held, (0, 0, 0, 9), value=torch.nan) for held in exact]
    num_exact = torch.tensor([5], device=GPU)
    actual = attend(query, view, *room, scaling, num_exact=num_exact)
    torch.testing.assert_close(actual, attend(query, view, *exact, scaling))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", [c for c in CASES if c.softcap is None], ids=str)
def test_prompts_equal_the_reference(
    case: DecodeCase, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexusquant.kernels.prefill_attention import launch

    # several stretches of a few pages each
    monkeypatch.setattr(launch, "WORKSPACE_BYTES", 2**15)
    view, scaling = to_gpu(case.view()), case.scaling(case.view())
    num_heads = len(case.lengths)
    for num_new, num_exact in ((7, 7), (70, 100)):
        query = torch.randn(num_heads * case.groups, num_new, case.dim, device=GPU).to(dtype)
        exact = [
            torch.randn(num_heads, num_exact, case.dim, device=GPU).to(dtype) for _ in range(2)
        ]
        actual = packed_attention(query, view, *exact, scaling)
        floats = [held.float() for held in (query, *exact)]
        expected = reference.packed_attention(floats[0], view, *floats[1:], scaling)
        # keys and values are rounded to the type of the model's own
        assert apart(actual, expected) < (CLOSE if dtype == torch.float16 else 3 * CLOSE)


def apart(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())


def test_a_long_text_equals_the_reference_with_exact_vectors_beside_it() -> None:
    case = DecodeCase(lengths=(40_000, 12_345), dim=128, rotary_dim=128, groups=4)
    view, query = to_gpu(case.view()), case.query().to(GPU)
    exact = [torch.randn(2, 33, 128, device=GPU) for _ in range(2)]
    arguments = (query.unsqueeze(1), view, *exact, case.scaling(case.view()))
    assert decode_attention._has_kernel(query.unsqueeze(1), view)
    assert apart(packed_attention(*arguments), reference.packed_attention(*arguments)) < CLOSE


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
