"""When the kernels that read packed pages are used."""

from __future__ import annotations

import pytest
import torch
from decode_cases import CASES

from nexusquant.kernels import backend, decode_attention, decode_problem

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_there_is_no_kernel_for_a_cpu():
    assert "cpu" in decode_problem(CPU, 64)


def test_what_has_no_kernel_is_said(monkeypatch):
    monkeypatch.setattr(decode_attention, "cuda_problem", lambda device: None)
    assert "512 values" in decode_problem(GPU, 512)
    assert decode_problem(GPU, 128) is None


def test_old_cards_are_served_by_torch(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "Ampere" in backend.cuda_problem.__wrapped__(GPU)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_of_the_kernel_are_such_as_it_is_used_for(case, monkeypatch):
    monkeypatch.setattr(decode_attention, "cuda_problem", lambda device: None)
    assert decode_attention._has_kernel(case.query().unsqueeze(1), case.view())
