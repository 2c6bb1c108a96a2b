"""A short run of hostile files of profiles; `run.py` makes long ones."""

from __future__ import annotations

import random
from collections import Counter

from profiles import attempts

COUNT = 60


def test_hostile_files_are_refused_or_harmless(tmp_path):
    ended: Counter[str] = Counter()
    for attempt in attempts(random.Random(37), COUNT, tmp_path):
        try:
            ended[attempt.run()] += 1
        except Exception as error:
            raise AssertionError(f"{attempt.name}: {error}") from error
    assert sum(ended.values()) == COUNT
    assert ended["refused"] > COUNT // 2
