"""When the kernels that read packed pages are used."""

from __future__ import annotations

import pytest
import torch
from decode_cases import CASES, DecodeCase
from packed_cases import make_case

from nexusquant.kernels import backend, decode_attention, decode_problem, packed_attention
from nexusquant.kernels.cuda_program import CudaError
from nexusquant.kernels.decode_attention import launch, reference

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_there_is_no_kernel_for_a_cpu():
    assert "cpu" in decode_problem(CPU, 64)


def test_what_has_no_kernel_is_said(monkeypatch):
    monkeypatch.setattr(decode_attention, "cuda_problem", lambda device: None)
    assert "256 values" in decode_problem(GPU, 256)
    assert decode_problem(GPU, 128) is None


def test_old_cards_are_served_by_torch(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "Ampere" in backend.cuda_problem.__wrapped__(GPU)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_of_the_kernel_are_such_as_it_is_used_for(case, monkeypatch):
    monkeypatch.setattr(decode_attention, "cuda_problem", lambda device: None)
    assert decode_attention._has_kernel(case.query().unsqueeze(1), case.view())


def test_values_of_more_bits_than_the_kernel_sums_up_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(decode_attention, "cuda_problem", lambda device: None)
    wide = DecodeCase(lengths=(70,), bits=(4, (5, *(4,) * 7)))
    assert not decode_attention._has_kernel(wide.query().unsqueeze(1), wide.view())


def test_a_card_that_is_too_small_for_a_kernel_is_served_by_torch_with_a_warning(monkeypatch):
    def too_large(*_, **__):
        raise CudaError("a block gets no 200,000 bytes of shared memory")

    monkeypatch.setattr(decode_attention, "_has_kernel", lambda *_: True)
    monkeypatch.setattr(launch, "attend", too_large)
    case = make_case([70, 33], groups=2)
    arguments = (case.query, case.view, case.exact_keys, case.exact_values, 0.3)
    decode_attention._warn.cache_clear()
    with pytest.warns(UserWarning, match="200,000 bytes"):
        actual = packed_attention(*arguments)
    assert torch.equal(actual, reference.packed_attention(*arguments))
