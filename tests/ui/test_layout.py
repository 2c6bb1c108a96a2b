"""The page as a whole: it builds without a model, and its events keep the rules."""

from __future__ import annotations

import gradio as gr
import pytest
from fake_engine import FakeEngine
from visitors import make_services

from ui.layout import SCRIPT_PATH, STYLE_PATH, build_ui


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    engine = FakeEngine()
    yield build_ui(make_services(engine, tmp_path_factory.mktemp("data")))
    engine.close()


def components(page: gr.Blocks, kind: type) -> list:
    return [block for block in page.blocks.values() if isinstance(block, kind)]


def test_the_page_builds_without_a_model(script, tmp_path):
    engine = FakeEngine(script, is_loaded=False)
    page = build_ui(make_services(engine, tmp_path))
    tabs = [tab.label for tab in components(page, gr.Tab)]
    assert tabs == ["Chat", "Documents", "Compare", "Settings"]
    engine.close()


def test_no_event_is_open_to_clients(page):
    events = list(page.fns.values())
    assert len(events) > 20
    visible = [fn.name for fn in events if fn.api_visibility != "private"]
    # leaving the page has no endpoint of its own to hide
    assert set(visible) <= {"leave_page"}


def test_stop_does_not_wait_in_the_queue_behind_what_it_stops(page):
    stops = [fn for fn in page.fns.values() if fn.name in ("stop", "stop_loading", "stop_test")]
    assert len(stops) == 5
    assert not any(fn.queue for fn in stops)


def test_events_that_watch_a_job_never_wait_for_each_other(page):
    names = {"send", "regenerate", "follow", "after_stop", "read", "ask", "run", "open_file",
             "load_model", "watch"}  # fmt: skip
    watching = [fn for fn in page.fns.values() if fn.name in names]
    assert {fn.name for fn in watching} == names
    assert {fn.concurrency_limit for fn in watching} == {None}


def test_sessions_hold_ids_only(page):
    states = components(page, gr.State)
    assert [state.value for state in states] == [""]


def test_chats_are_sanitized(page):
    logs = components(page, gr.Chatbot)
    assert len(logs) == 2
    assert all(log.sanitize_html for log in logs)


def test_each_screen_begins_with_few_filled_buttons(page):
    primary = [b.value for b in components(page, gr.Button) if b.variant == "primary"]
    # Ask takes over from Read once the pages are read, and is not shown before
    assert sorted(primary) == ["Ask", "Compare", "Load", "Read", "Send"]


def test_the_style_is_short_and_fetches_nothing():
    style = STYLE_PATH.read_text(encoding="utf-8")
    assert len(style.splitlines()) < 200
    for text in (style, SCRIPT_PATH.read_text(encoding="utf-8")):
        assert "http" not in text
        assert "url(" not in text
        assert "@import" not in text
