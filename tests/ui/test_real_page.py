"""The whole app as a person meets it: started from the command line, a real PDF, a real model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from browsing import Visitor, chromium, open_tab, text_of, wait_for_text

pytestmark = [pytest.mark.model, pytest.mark.browser]

ROOT = Path(__file__).resolve().parents[2]
START_S = 90
READ_S = 270
ANSWER_S = 120


@pytest.fixture
def address(data_dir, tmp_path):
    command = [sys.executable, "app.py", "--no-browser", "--device", "cpu", "--preset", "safe"]
    log = (tmp_path / "log").open("w+")
    with subprocess.Popen(
        [*command, "--port", "18960", "--data-dir", str(data_dir)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    ) as process:
        try:
            yield wait_for_address(process, log)
        finally:
            process.terminate()


def wait_for_address(process: subprocess.Popen, log) -> str:
    began = time.monotonic()
    for line in process.stdout:
        found = re.search(r"Nexusquant: (http://127\.0\.0\.1:\d+/)", line)
        if found:
            return found[1]
        assert time.monotonic() - began < START_S
    log.seek(0)
    raise AssertionError(f"the app ended before it was ready:\n{log.read()}")


@pytest.mark.timeout(600)
def test_a_real_manual_is_read_and_answered_from_with_a_page_cited(address, r_manual):
    with chromium() as window:
        visitor = Visitor(window, address)
        page = visitor.page
        open_tab(page, "Settings")
        page.fill("#set-temperature input[type=number]", "0")
        # a small model may say the same over and over
        page.fill("#set-longest input[type=number]", "64")
        page.press("#set-longest input[type=number]", "Tab")
        wait_for_text(page, "#set-sampling-status", "next answer")
        open_tab(page, "Documents")
        page.set_input_files("#doc-file input[type=file]", str(r_manual))
        wait_for_text(page, "#doc-card", " pages, ", timeout_s=60)
        # the model is measured first, where that was not done before
        wait_for_text(page, "#doc-fit", "Does not fit", timeout_s=180)
        # the sentence about all pages gives way to one about these
        everything = text_of(page, "#doc-fit .nq-notice")
        page.fill("#doc-pages textarea", "7-12")
        page.wait_for_function(
            "before => document.querySelector('#doc-fit .nq-notice').innerText !== before",
            arg=everything,
        )
        wait_for_text(page, "#doc-fit", "Fits")
        page.click("#doc-read")
        wait_for_text(page, "#doc-status", "Reading page", timeout_s=60)
        page.wait_for_selector("#doc-box textarea", state="visible", timeout=READ_S * 1000)
        wait_for_text(page, "#doc-gauge", "×")

        page.fill("#doc-box textarea", "What is R?")
        page.press("#doc-box textarea", "Enter")
        partial = first_words(page)
        wait_for_text(page, "#doc-figures", "Measured factor", timeout_s=ANSWER_S)
        answer = page.locator("#doc-log .message.bot").last.inner_text()
        assert len(answer) > len(partial)
        assert re.search(r"\bR\b", answer)
        assert re.search(r"statistic|data|language|environment|graphic|software", answer)
        page.locator("#doc-cited label").first.click()
        wait_for_text(page, "#doc-page", "Page ")
        assert visitor.foreign_requests() == []
        assert visitor.complaints == []


def first_words(page) -> str:
    """The answer as it was when its first words could be seen."""
    page.wait_for_selector("#doc-log .message.bot", timeout=ANSWER_S * 1000)
    return page.locator("#doc-log .message.bot").last.inner_text()
