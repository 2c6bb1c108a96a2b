"""What forwards give is passed on when a GPU has done it, with the next one in its queue."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace

import pytest

# the package has a function of that name
prefill = import_module("nexusquant.engine.prefill")


class Gpu:
    """Notes what is queued and what is waited for."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def forwards(self, count: int) -> Iterator[tuple[int, SimpleNamespace]]:
        for number in range(count):
            self.notes.append(f"queue {number}")
            yield number, SimpleNamespace(is_cuda=True, number=number)

    def event_after(self, logits: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: self.notes.append(f"wait {logits.number}"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(prefill, "_event_after", gpu.event_after)
    return gpu


@pytest.mark.parametrize("count", range(4))
def test_all_are_passed_on_in_order(gpu: Gpu, count: int) -> None:
    found = [(number, logits.number) for number, logits in prefill.when_done(gpu.forwards(count))]
    assert found == [(number, number) for number in range(count)]


def test_each_is_waited_for_once_the_next_is_queued(gpu: Gpu) -> None:
    for number, _ in prefill.when_done(gpu.forwards(3)):
        gpu.notes.append(f"pass on {number}")
    assert gpu.notes == [
        *("queue 0", "queue 1", "wait 0", "pass on 0"),
        *("queue 2", "wait 1", "pass on 1"),
        *("wait 2", "pass on 2"),
    ]


def test_a_stop_queues_nothing_more(gpu: Gpu) -> None:
    passed_on = prefill.when_done(gpu.forwards(9))
    next(passed_on)
    passed_on.close()
    assert gpu.notes == ["queue 0", "queue 1", "wait 0"]
