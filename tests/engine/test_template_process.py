"""The process that runs a template: limits hold, and it never outlives who started it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from nexusquant.engine.chat_template import TemplateError, TemplateExcessError, TemplateProcess

NOON = datetime(2026, 3, 14, 12)
ECHO = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
ROOT = Path(__file__).resolve().parents[2]


def write(process: TemplateProcess, text: str = "heron") -> str:
    said = [{"role": "user", "content": text}]
    return process.render(said, add_generation_prompt=True, moment=NOON)


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def has_ended(pid: int, limit_s: float = 20) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def started():
    """A process of a template that is running, and the child of this one that it runs in."""
    before = children()
    process = TemplateProcess(ECHO, {})
    assert write(process) == "heron"
    (child,) = children() - before
    return process, child


def test_one_process_serves_every_text(started):
    process, child = started
    before = children()
    assert [write(process, str(number)) for number in range(5)] == list("01234")
    assert children() == before
    assert child.is_running()


def test_no_process_is_started_before_the_first_text():
    before = children()
    TemplateProcess(ECHO, {})
    assert children() == before


def test_a_process_that_was_killed_is_replaced_and_leaves_no_zombie(started):
    process, child = started
    child.kill()
    assert has_ended(child.pid)
    assert write(process, "again") == "again"
    assert not psutil.pid_exists(child.pid)


def test_a_process_that_is_no_longer_needed_is_ended_and_leaves_no_zombie():
    before = children()
    process = TemplateProcess(ECHO, {})
    write(process)
    (child,) = children() - before
    del process
    gc.collect()
    assert not psutil.pid_exists(child.pid)


def test_a_template_that_takes_too_much_is_ended_and_the_next_text_starts_anew():
    # from the message: jinja computes what is constant as it compiles, whoever asks
    greedy = "{% if messages[0]['content'] == 'x' %}{{ messages[0]['content'] * 10**9 }}{% endif %}"
    before = children()
    process = TemplateProcess(greedy + ECHO, {})
    with pytest.raises(TemplateExcessError, match="memory"):
        write(process, "x")
    assert children() == before
    assert write(process) == "heron"


def test_an_endless_template_is_ended_within_its_limit_and_leaves_no_process():
    endless = "{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}"
    before, began = children(), time.monotonic()
    with pytest.raises(TemplateExcessError, match="does not end"):
        write(TemplateProcess(endless, {}))
    assert time.monotonic() - began < 60
    assert children() == before


def test_a_template_that_fails_does_not_end_its_process():
    before = children()
    process = TemplateProcess("{{ 1 // (messages[0]['content'] | int) }}", {})
    with pytest.raises(TemplateError, match="division"):
        write(process, "0")
    (child,) = children() - before
    assert write(process, "1") == "1"
    assert children() - before == {child}


def test_the_process_ends_with_a_parent_that_is_killed():
    script = (
        "import sys, psutil\n"
        "from datetime import datetime\n"
        "from nexusquant.engine.chat_template import TemplateProcess\n"
        "process = TemplateProcess('text', {})\n"
        "process.render([], add_generation_prompt=True, moment=datetime(2026, 3, 14))\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    assert has_ended(pid)
