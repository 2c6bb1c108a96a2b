"""What a terminal, or a file in its place, is told while the model loads."""

from __future__ import annotations

import io
import re

import pytest

from ui.model_desk import ModelDesk
from ui.server import console
from ui.server.console import tell_loading

PART = re.compile(r"Reading weights, part (\d+) of 10")


class Terminal(io.StringIO):
    """Text that claims to be on a screen."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def desk(engine, script):
    # slow enough for a look at every step
    script.is_report_kept, script.load_delay_s = True, 0.15
    return ModelDesk(engine)


def told(desk: ModelDesk, name: str | None, output: io.StringIO) -> str:
    tell_loading(desk.load(name), desk.failure, output).join(20)
    return output.getvalue()


def test_a_file_gets_a_line_for_each_step(desk, monkeypatch):
    monkeypatch.setattr(console, "FILE_EVERY_S", 0.0)
    *steps, last = told(desk, None, io.StringIO()).splitlines()
    parts = [int(PART.fullmatch(step)[1]) for step in steps]
    # a busy computer looks at some steps only
    assert parts and parts == sorted(set(parts))
    assert last == "The model is ready."


def test_a_terminal_gets_one_line_that_is_written_over(desk, monkeypatch):
    monkeypatch.setattr(console, "TERMINAL_EVERY_S", 0.0)
    text = told(desk, None, Terminal())
    first = text.split("\r")[1]
    assert text.startswith("\r") and PART.fullmatch(first)
    assert text.count("\n") == 1
    # what is left of a longer line is covered
    assert text.rstrip(" \n").endswith("\rThe model is ready.")
    assert text.endswith(" \n")


def test_numbers_that_change_often_are_told_from_time_to_time(desk):
    steps = [line for line in told(desk, None, io.StringIO()).splitlines() if "part" in line]
    assert 1 <= len(steps) <= 10


def test_why_a_model_could_not_be_loaded_is_told(desk):
    text = told(desk, "missing/model", io.StringIO())
    assert text.splitlines()[-1].startswith("The model could not be loaded: missing/model")
