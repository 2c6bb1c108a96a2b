from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from nexusquant.kernels import backend

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def unknown_devices():
    backend.triton_problem.cache_clear()
    yield
    backend.triton_problem.cache_clear()


def test_there_are_no_kernels_for_the_cpu():
    assert "'cpu'" in backend.triton_problem(torch.device("cpu"))


def test_a_missing_triton_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend.triton_problem(GPU) == "the package triton is missing"


@pytest.mark.parametrize("error", [RuntimeError("no C compiler\nhint"), OSError("no C compiler")])
def test_a_kernel_that_cannot_be_built_is_a_reason_and_no_crash(monkeypatch, error):
    def fail(device):
        raise error

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backend, "_probe", fail)
    assert backend.triton_problem(GPU) == (
        f"a small test failed ({type(error).__name__}: no C compiler)"
    )


def test_a_failing_c_compiler_is_said_with_what_to_install(monkeypatch):
    def fail(device):
        raise subprocess.CalledProcessError(1, ["gcc", "-O3", "/tmp/long/path.c"])

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backend, "_probe", fail)
    assert "python3-dev" in backend.triton_problem(GPU)
    assert "/tmp" not in backend.triton_problem(GPU)


def test_a_broken_installation_of_triton_is_a_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for name in ("triton", "triton.errors", "nexusquant.kernels.triton_probe"):
        monkeypatch.setitem(sys.modules, name, None)
    assert backend.triton_problem(GPU).startswith("a small test failed (ModuleNotFoundError")


@pytest.mark.parametrize(("is_right", "expected"), [(True, None), (False, "wrong result")])
def test_the_probe_decides(monkeypatch, is_right, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backend, "_probe", lambda device: is_right)
    problem = backend.triton_problem(GPU)
    assert problem is None if expected is None else expected in problem
