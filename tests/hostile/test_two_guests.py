"""A few seconds of two guests, one of them hostile; `two_guests.py` goes on for minutes."""

from __future__ import annotations

import re

from served import serve_fake
from two_guests import PASSWORDS, run

SECONDS = 15


def echo(prompt: str, _config) -> str:
    """Say again what was asked last, so that a mix-up shows."""
    return "You said: " + re.findall(r"(?:ada|bob) asks[^.<\n]*", prompt)[-1]


def test_a_hostile_guest_does_not_keep_another_from_her_answers(tmp_path):
    with serve_fake(tmp_path, passwords=PASSWORDS) as site:
        site.script.answer = echo
        site.script.token_delay_s = 0.01
        outcome = run(site.url, SECONDS, num_bobs=2)
    assert outcome.faults == []
    assert len(outcome.waits_s) >= 3
    told = " ".join(outcome.told)
    assert "most" in told or "many" in told
    assert sum(outcome.done.values()) > 10
