"""A short run of hostile messages and templates; `run.py` makes long ones."""

from __future__ import annotations

import random
from collections import Counter

from messages import attempts

COUNT = 40


def test_hostile_messages_act_on_nothing_and_hostile_templates_are_refused(tmp_path):
    ended: Counter[str] = Counter()
    for attempt in attempts(random.Random(43), COUNT, tmp_path):
        try:
            ended[attempt.run()] += 1
        except Exception as error:
            raise AssertionError(f"{attempt.name}: {error}") from error
    assert ended["refused"] + ended["right"] == COUNT
    assert min(ended.values()) > 0
