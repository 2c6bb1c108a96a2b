"""What the starters of CUDA programs hand over, without a GPU: as many arguments as there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from decode_cases import CASES, DecodeCase

from nexusquant.kernels.decode_attention import launch as decode
from nexusquant.kernels.prefill_attention import launch as prefill
from nexusquant.kernels.tiles.coder_tables import FittingKernel


class Recorder:
    """A kernel that keeps what it is started with."""

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        source = "".join(path.read_text("utf-8") for path in paths)
        found = re.search(rf"\b{name}\(([^)]*)\)", source)
        assert found, name
        self.parameters = [part.strip() for part in found[1].split(",")]
        self.args: tuple = ()

    def constant(self, name: str) -> int:
        return 1000

    def launch(self, grid, num_threads, shared_bytes, *args, is_whole=False) -> None:
        assert len(grid) == 2 and num_threads % 32 == 0 and shared_bytes > 0
        self.args = args


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    """Kernels by name, once they were started."""
    made: dict[str, Recorder] = {}

    def fitting(paths, name, macros, warps, device, own_bytes=0) -> FittingKernel:
        kernel = made[name] = Recorder(paths, name)
        return FittingKernel(kernel, warps[0], 1000 + own_bytes)

    for launcher in (decode, prefill):
        monkeypatch.setattr(launcher, "fitting_kernel", fitting)
    monkeypatch.setattr(decode, "runs_whole", lambda _: True)
    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    decode._num_processors.cache_clear()
    yield made
    decode._num_processors.cache_clear()


def check(recorder: Recorder) -> None:
    """Pointers meet tensors (or null), numbers meet numbers of their kind."""
    assert len(recorder.args) == len(recorder.parameters)
    for parameter, arg in zip(recorder.parameters, recorder.args, strict=True):
        if "*" in parameter:
            assert arg is None or isinstance(arg, torch.Tensor), parameter
            assert arg is None or arg.stride(-1) == 1, parameter
        elif parameter.startswith("float"):
            assert isinstance(arg, float), parameter
        else:
            assert type(arg) is int, parameter


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_decode_kernels_get_what_they_take(case: DecodeCase, recorders) -> None:
    view, query = case.view(), case.query()
    exact = [torch.randn(len(case.lengths), 5, case.dim) for _ in range(2)]
    out = decode.attend(query, view, *exact, case.scaling(view), case.softcap)
    assert out.shape == (query.shape[0], view.value_quantizer.dim)
    assert list(recorders) == ["attend"]
    for recorder in recorders.values():
        check(recorder)


@pytest.mark.parametrize("of_keys", [True, False])
def test_rebuilding_gets_what_it_takes(of_keys: bool, recorders) -> None:
    view = CASES[0].view()
    parts = (view.keys, view.key_quantizer, view.rotary)
    vectors, coder, rotary = parts if of_keys else (view.values, view.value_quantizer, None)
    starts = torch.zeros(view.page_table.shape[0] + 1, dtype=torch.int32)
    prefill.rebuild(view, vectors, coder, rotary, range(64), starts, torch.float16)
    check(recorders["rebuild_vectors"])
