"""Fixtures of the UI tests: a fake engine, services over it, and somebody at the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_engine import FakeEngine, Script, numbered_words
from visitors import make_services, person

from ui.services import Services


@pytest.fixture
def script() -> Script:
    return Script(numbered_words)


@pytest.fixture
def engine(script) -> Iterator[FakeEngine]:
    engine = FakeEngine(script)
    yield engine
    engine.close()


@pytest.fixture
def services(engine, tmp_path) -> Services:
    return make_services(engine, tmp_path)


@pytest.fixture
def me():
    return person()


@pytest.fixture
def workspace(services, me):
    return services.sessions.open(None, "local")
