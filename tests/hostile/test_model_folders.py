"""Hostile model folders end in a model that answers or in a sentence; a long run is a command."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from model_folders import attempts

COUNT = 60


def test_hostile_model_folders_are_loaded_right_or_refused(tmp_path: Path) -> None:
    ended: Counter[str] = Counter()
    for attempt in attempts(random.Random(23), COUNT, tmp_path):
        try:
            ended[attempt.run()] += 1
        except Exception as error:
            raise AssertionError(f"{attempt.name}: {error}") from error
    assert ended["refused"] + ended["right"] == COUNT
    assert min(ended.values()) > 0
