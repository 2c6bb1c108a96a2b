"""A short run of hostile requests; `run.py` makes long ones."""

from __future__ import annotations

import random
from collections import Counter

from web import attempts

COUNT = 60


def test_hostile_requests_are_refused_or_answered_like_honest_ones(tmp_path):
    ended: Counter[str] = Counter()
    for attempt in attempts(random.Random(23), COUNT, tmp_path):
        try:
            ended[attempt.run()] += 1
        except Exception as error:
            raise AssertionError(f"{attempt.name}: {error}") from error
    assert ended["refused"] + ended["right"] == COUNT
    assert min(ended.values()) > 0
