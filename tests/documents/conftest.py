"""Fixtures of the documents' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine

SaveFile = Callable[[str, bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> SaveFile:
    """Write a file with a name and bytes; gives its path."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    engine = ScriptedEngine()
    yield engine
    engine.close()
