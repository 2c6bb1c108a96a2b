from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from hold_cases import hold_case

from nexusquant.kernels import hold_token


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_key_is_held_less_its_mean_and_a_value_as_it_is(dtype):
    new, held, means = hold_case(dtype)
    before = held[0].clone()
    wide = hold_token(new, torch.tensor([7]), held, means)
    assert torch.equal(held[0][:, 7:8], (new[0].float() - means[:, 7:8]).half())
    assert torch.equal(held[1][:, 7:8], new[1].to(held[1].dtype))
    others = [slot for slot in range(21) if slot != 7]
    assert torch.equal(held[0][:, others], before[:, others])
    assert torch.equal(wide, held[0].float() + means)


@pytest.mark.parametrize(("problem", "is_used"), [(None, True), ("the package is missing", False)])
def test_the_kernel_is_used_where_triton_works_and_nowhere_else(monkeypatch, problem, is_used):
    calls = []
    launcher = SimpleNamespace(hold_token=lambda *given: calls.append("hold"))
    package = importlib.import_module("nexusquant.kernels.hold")
    monkeypatch.setattr(package, "triton_problem", lambda device: problem)
    monkeypatch.setattr(package, "triton_launch", launcher, raising=False)
    new, held, means = hold_case(torch.float32)
    hold_token(new, torch.tensor([0]), held, means)
    assert calls == (["hold"] if is_used else [])
