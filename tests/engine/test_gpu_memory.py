"""How much of a card this program takes, and what it says when that is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nexusquant.engine import Engine, JobState, MemoryReading, Worker, default_gpu_share
from nexusquant.engine.devices import cap_gpu_memory, devices_of
from nexusquant.engine.events import Event, TextDelta
from nexusquant.engine.memory import DRIVER_BYTES, read_memory
from nexusquant.errors import OutOfMemoryError
from ui.diagnostics import diagnostics_text

GIB = 2**30
GPU = torch.device("cuda", 0)


class PretendCards:
    """Cards of 8 GiB, as far as torch is asked about memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: list[int]) -> None:
        self.shares: dict[int, float] = {}
        self.held = 0
        card = SimpleNamespace(uuid="0", multi_processor_count=1)
        answers = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: len(free),
            "get_device_capability": lambda *device: (8, 6),
            "get_arch_list": lambda: ["sm_80"],
            "get_device_name": lambda device: f"Card {device.index}",
            "get_device_properties": lambda device: card,
            "mem_get_info": lambda device: (free[device.index], 8 * GIB),
            "memory_reserved": lambda device: self.held,
            "set_per_process_memory_fraction": self._set,
            "get_per_process_memory_fraction": lambda device=GPU: self.shares.get(device.index, 1),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def _set(self, share: float, device: torch.device) -> None:
        self.shares[device.index] = share


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> PretendCards:
    return PretendCards(monkeypatch, [7 * GIB, 3 * GIB])


def test_without_a_driver_library_cuda_itself_is_asked(cards: PretendCards) -> None:
    cards.held = GIB
    assert read_memory(GPU) == MemoryReading("Card 0", 8 * GIB, 7 * GIB, GIB)
    assert read_memory(GPU).usable_bytes == 7 * GIB


def test_several_cards_are_read_as_one(cards: PretendCards) -> None:
    reading = read_memory(*devices_of(torch.device("cuda")))
    assert reading.device_name == "Card 0 + Card 1"
    assert (reading.device_total_bytes, reading.usable_bytes) == (16 * GIB, 10 * GIB)
    assert reading.allowed_bytes is None
    assert devices_of(torch.device("cpu")) == (torch.device("cpu"),)


def test_a_share_caps_every_card_and_leaves_others_what_they_hold(cards: PretendCards) -> None:
    cap_gpu_memory(0.75)
    # of the share, and of what is free, the driver takes its part first
    assert cards.shares[0] * 8 * GIB == pytest.approx(6 * GIB - DRIVER_BYTES)
    assert cards.shares[1] * 8 * GIB == pytest.approx(3 * GIB - DRIVER_BYTES)
    assert read_memory(GPU).usable_bytes == pytest.approx(6 * GIB)
    cards.held = 2 * GIB
    assert read_memory(GPU).usable_bytes == pytest.approx(4 * GIB)
    # what is given back can be had again
    assert read_memory(GPU).after_freeing(2 * GIB).usable_bytes == pytest.approx(6 * GIB)


def test_the_whole_card_is_no_cap(cards: PretendCards) -> None:
    cap_gpu_memory(0.5)
    cap_gpu_memory(1.0)
    assert set(cards.shares.values()) == {1.0}
    assert read_memory(GPU).allowed_bytes is None


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_other_shares_are_refused(cards: PretendCards, share: float) -> None:
    with pytest.raises(ValueError, match="above 0, up to 1"):
        cap_gpu_memory(share)


def test_only_windows_needs_a_cap_by_itself() -> None:
    assert default_gpu_share("win32") == 0.9
    assert default_gpu_share("linux") == default_gpu_share("darwin") == 1.0


def test_an_error_of_a_capped_card_says_how_to_change_that(cards: PretendCards) -> None:
    cards.shares[0] = 0.84
    error = failed_job().error
    assert isinstance(error, OutOfMemoryError)
    assert "takes 84% of the GPU at most: --gpu-share changes that" in str(error)
    cards.shares.clear()
    assert "--gpu-share" not in str(failed_job().error)


def failed_job():
    worker = Worker()

    def full() -> Iterator[Event]:
        yield TextDelta("")
        raise torch.OutOfMemoryError("CUDA out of memory.")

    job = worker.submit(full)
    assert job.wait(20)
    worker.close()
    assert job.state is JobState.FAILED
    return job


def test_the_cap_stands_in_the_diagnostics() -> None:
    capped = MemoryReading("Card 0", 8 * GIB, 7 * GIB, 10**9, 6 * 10**9)
    assert "this program: 1.00 GB, at most 6.00 GB (--gpu-share)" in diagnostics_text(
        None, capped, 1
    )
    assert "--gpu-share" not in diagnostics_text(None, MemoryReading("Card", GIB, GIB, 0), 1)


def test_what_the_present_model_holds_of_each_card_counts_as_free(
    cards: PretendCards, tmp_path: Path
) -> None:
    engine = Engine(tmp_path, device="cuda")
    assert engine.room_bytes() == (7 * GIB, 3 * GIB)
    engine.info = SimpleNamespace(weight_bytes_by_device={"cuda:0": GIB, "cpu": 5 * GIB})
    assert engine.room_bytes() == (8 * GIB, 3 * GIB)
    engine.close()
