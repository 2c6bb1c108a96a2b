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

NUM_PROCESSORS, NUM_SHARES = 132, 4


class Recorder:
    """A kernel that keeps what it is started with."""

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        source = "".join(path.read_text("utf-8") for path in paths)
        found = re.search(rf"\b{name}\(([^)]*)\)", source)
        assert found, name
        self.parameters = [part.strip() for part in found[1].split(",")]
        self.args: tuple = ()
        self.grid, self.is_cooperative = (0, 0), False

    def constant(self, name: str) -> int:
        return {"num_shares": NUM_SHARES}.get(name, 1000)

    def launch(self, grid, num_threads, shared_bytes, *args, is_cooperative=False) -> None:
        assert len(grid) == 2 and num_threads % 32 == 0 and shared_bytes > 0
        self.grid, self.args, self.is_cooperative = grid, args, is_cooperative


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    """Kernels by name, once they were started."""
    made: dict[str, Recorder] = {}

    def fitting(paths, name, macros, warps, device, own_bytes=lambda *_: 0) -> FittingKernel:
        kernel = made[name] = Recorder(paths, name)
        return FittingKernel(kernel, warps[0], 1000 + own_bytes(kernel, warps[0]))

    for launcher in (decode, prefill):
        monkeypatch.setattr(launcher, "fitting_kernel", fitting)
    monkeypatch.setattr(decode, "starts_cooperative", lambda _: True)
    properties = SimpleNamespace(multi_processor_count=NUM_PROCESSORS)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    decode._num_processors.cache_clear()
    yield made
    decode._num_processors.cache_clear()


POINTED = {
    "long long": torch.int64,
    "int": torch.int32,
    "u32": torch.int32,
    "uint4": torch.int32,
    "float": torch.float32,
}
"""Types of tensors by the pointers that they go to; others take bytes of anything."""


def check(recorder: Recorder) -> None:
    """Pointers meet tensors of their type (or null), numbers meet numbers of their kind."""
    assert len(recorder.args) == len(recorder.parameters)
    for parameter, arg in zip(recorder.parameters, recorder.args, strict=True):
        if "*" in parameter:
            assert arg is None or isinstance(arg, torch.Tensor), parameter
            assert arg is None or arg.stride(-1) == 1, parameter
            pointed = parameter.split("*")[0].removeprefix("const ").strip()
            assert arg is None or arg.dtype == POINTED.get(pointed, arg.dtype), parameter
        elif parameter.startswith("float"):
            assert isinstance(arg, float), parameter
        else:
            assert type(arg) is int, parameter


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_decode_kernel_gets_what_it_takes(
    case: DecodeCase, waits: bool, recorders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "starts_cooperative", lambda _: waits)
    view, query = case.view(), case.query()
    exact = [torch.randn(len(case.lengths), 5, case.dim) for _ in range(2)]
    count = torch.tensor([5])
    out = decode.attend(query, view, *exact, case.scaling(view), case.softcap, num_exact=count)
    assert out.shape == (query.shape[0], view.value_quantizer.dim)
    assert list(recorders) == ["attend"]
    recorder = recorders["attend"]
    check(recorder)
    # blocks that wait for each other have to fit the device at once, and be started so
    num_heads, num_parts = recorder.grid
    assert num_heads == len(case.lengths) and num_heads * num_parts <= NUM_PROCESSORS
    assert recorder.is_cooperative == (waits and num_parts > 1)


@pytest.mark.parametrize("num_tokens", [64, 5 * 256, 5 * 256 + 64, 67 * 256])
def test_longer_texts_are_shared_by_more_blocks_and_short_ones_by_those_of_the_output(
    num_tokens: int, recorders
) -> None:
    case = DecodeCase(lengths=(num_tokens, 1))
    view, query = case.view(), case.query()
    exact = [torch.randn(2, 5, case.dim) for _ in range(2)]
    decode.attend(query, view, *exact, case.scaling(view))
    most = NUM_PROCESSORS // 2
    wanted = min(most, max(NUM_SHARES, -(-view.positions.shape[1] // 256)))
    assert recorders["attend"].grid == (2, wanted)


def test_pages_are_found_wherever_their_table_lies(recorders) -> None:
    case = CASES[0]
    view, query = case.view(), case.query()
    exact = [torch.randn(len(case.lengths), 5, case.dim) for _ in range(2)]
    wide = torch.nn.functional.pad(view.page_table, (2, 1), value=-1)
    slice_of_it = view._replace(page_table=wide[:, 2:-1])
    decode.attend(query, slice_of_it, *exact, case.scaling(view))
    _, table, width, *_ = recorders["attend"].args
    assert table.is_contiguous() and table.equal(view.page_table)
    assert width == view.page_table.shape[1]


@pytest.mark.parametrize("of_keys", [True, False])
def test_rebuilding_gets_what_it_takes(of_keys: bool, recorders) -> None:
    view = CASES[0].view()
    parts = (view.keys, view.key_quantizer, view.rotary)
    vectors, coder, rotary = parts if of_keys else (view.values, view.value_quantizer, None)
    starts = torch.zeros(view.page_table.shape[0] + 1, dtype=torch.int32)
    prefill.rebuild(view, vectors, coder, rotary, range(64), starts, torch.float16)
    check(recorders["rebuild_vectors"])
