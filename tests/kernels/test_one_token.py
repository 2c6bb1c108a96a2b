from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from one_token_cases import matrix_case, norm_case, rotation_case
from transformers.models.llama import modeling_llama

from nexusquant.kernels import gated_one, linear_one, norm_one, projections_one, rotate_one


@pytest.fixture
def config():
    return modeling_llama.LlamaConfig(hidden_size=64, intermediate_size=96)


def test_on_a_cpu_they_are_what_a_model_does(config):
    x, weight = norm_case(torch.bfloat16, 3, 64)
    norm = modeling_llama.LlamaRMSNorm(64, 1e-5).to(torch.bfloat16)
    norm.weight.data.copy_(weight)
    assert torch.equal(norm_one(x, weight, 1e-5), norm(x))
    given = rotation_case(torch.bfloat16, 64, 64)
    for actual, expected in zip(
        rotate_one(*given), modeling_llama.apply_rotary_pos_emb(*given), strict=True
    ):
        assert torch.equal(actual, expected)
    mlp = modeling_llama.LlamaMLP(config).to(torch.bfloat16)
    x = matrix_case(torch.bfloat16, 1, 64)[0]
    inner = gated_one(x, mlp.gate_proj.weight, mlp.up_proj.weight)
    assert torch.equal(linear_one(inner, mlp.down_proj.weight), mlp(x))


@pytest.mark.parametrize(("problem", "is_used"), [(None, True), ("the package is missing", False)])
def test_kernels_are_used_where_triton_works_and_nowhere_else(monkeypatch, problem, is_used):
    calls = []
    names = ("norm_one", "rotate_one", "linear_one", "gated_one", "projections_one")
    launcher = SimpleNamespace(
        **{name: lambda *given, name=name: calls.append(name) for name in names}
    )
    package = importlib.import_module("nexusquant.kernels.one_token")
    monkeypatch.setattr(package, "triton_problem", lambda device: problem)
    monkeypatch.setattr(package, "triton_launch", launcher, raising=False)
    x, gate, up, bias = matrix_case(torch.bfloat16, 8, 64)
    norm_one(*norm_case(torch.bfloat16, 1, 64), 1e-5)
    rotate_one(*rotation_case(torch.bfloat16, 64, 64))
    linear_one(x, gate, bias)
    gated_one(x, gate, up)
    projections_one(x, (gate, up, gate), (None, None, None))
    assert calls == (list(names) if is_used else [])
