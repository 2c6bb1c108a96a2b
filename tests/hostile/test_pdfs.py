"""Hostile PDFs end in pages or in a sentence; a long run is made by the runner."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from pdfs import attempts

COUNT = 30


def test_hostile_pdfs_are_read_or_refused_within_the_limits(tmp_path: Path) -> None:
    ended: Counter[str] = Counter()
    for attempt in attempts(random.Random(23), COUNT, tmp_path):
        try:
            ended[attempt.run()] += 1
        except Exception as error:
            raise AssertionError(f"{attempt.name}: {error}") from error
    assert ended["right"] + ended["refused"] == COUNT
    assert min(ended["right"], ended["refused"]) > 0
    assert not list(tmp_path.iterdir())
