"""Logging in and out in a real Chromium."""

from __future__ import annotations

import pytest
from test_following import ALL_WORDS

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from browsing import ask, chromium, open_tab, text_of, wait_for_text
from served import PASSWORDS, serve_fake

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with serve_fake(tmp_path_factory.mktemp("data"), passwords=PASSWORDS) as site:
        yield site


@pytest.fixture(scope="module")
def window():
    with chromium() as window:
        yield window


@pytest.fixture(params=[1280, 390])
def page(window, site, request):
    window.clear_cookies()
    page = window.new_page()
    page.set_viewport_size({"width": request.param, "height": 844})
    page.goto(site.url)
    yield page
    page.close()
    site.rest()


def log_in(page, name: str, password: str) -> None:
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", password)
    page.click("button")


def test_a_wrong_password_keeps_the_name_and_the_right_one_leads_to_the_page(page):
    for _ in range(2):
        log_in(page, "ada", "wrong")
        page.wait_for_selector(".wrong")
        assert "do not belong together" in text_of(page, ".wrong")
        assert page.input_value("input[name=username]") == "ada"
        assert page.input_value("input[name=password]") == ""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    log_in(page, "ada", PASSWORDS["ada"])
    page.wait_for_selector("#chat-box textarea")
    ask(page, "Count")
    wait_for_text(page, "#chat-log", ALL_WORDS)


def test_logging_out_leads_to_the_login_and_back_to_an_empty_page(page):
    log_in(page, "bob", PASSWORDS["bob"])
    page.wait_for_url("**/?*chat=*")
    open_tab(page, "Settings")
    wait_for_text(page, "#set-login", "logged in as bob")
    page.click("#set-log-out")
    page.wait_for_selector("input[name=password]")
    page.go_back()
    page.reload()
    page.wait_for_selector("input[name=password]")
