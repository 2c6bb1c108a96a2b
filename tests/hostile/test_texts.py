"""Hostile texts end in pages or in a sentence; a long run is made by the runner."""

from __future__ import annotations

import random
from pathlib import Path

from texts import attempts


def test_hostile_texts_are_read_or_refused(tmp_path: Path) -> None:
    endings = [attempt.run() for attempt in attempts(random.Random(23), 40, tmp_path)]
    assert set(endings) == {"right", "refused"}
    assert not list(tmp_path.iterdir())
