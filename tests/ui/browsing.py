"""A real Chromium to look at a page with."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[BrowserContext]:
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM_NAMES)} is installed")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        context = browser.new_context()
        context.set_default_timeout(20_000)
        yield context
        browser.close()


class Visitor:
    """Somebody who looks at the page in one or more tabs.

    Args:
        context: The browser window, shared by all so that the page's own files stay cached.
        url: The page.
        size: Width and height of the tabs, in pixels.
        scheme: "light" or "dark".
    """

    def __init__(
        self,
        context: BrowserContext,
        url: str,
        size: tuple[int, int] = (1280, 860),
        scheme: str = "light",
    ) -> None:
        self._context, self._url, self._size, self._scheme = context, url, size, scheme
        self._tabs: list[Page] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = self.new_tab()

    def new_tab(self) -> Page:
        page = self._context.new_page()
        self._tabs.append(page)
        page.set_viewport_size({"width": self._size[0], "height": self._size[1]})
        page.emulate_media(color_scheme=self._scheme)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", self._forget_if_refused)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self._url)
        page.wait_for_selector("#chat-box textarea")
        # the chat's id is in the address once the page is wired to its chat
        page.wait_for_url("**/?*chat=*")
        return page

    def foreign_requests(self) -> list[str]:
        own = (self._url, "data:", "blob:")
        return [url for url in self.requests if not url.startswith(own)]

    def close(self) -> None:
        for page in self._tabs:
            page.close()

    def _note(self, message) -> None:
        # a page that is loaded again breaks off its streams; Gradio's script then complains that
        # the server no longer knows the old one. A missing file is reported in other words.
        broken_off = ("AbortError", "Connection errored out", "Unexpected error 404: Not Found")
        if message.type == "error" and not any(words in message.text for words in broken_off):
            self.complaints.append(message.text)

    def _forget_if_refused(self, request) -> None:
        # the browser reports what its content policy held back as a request that failed
        if request.failure == "csp" and request.url in self.requests:
            self.requests.remove(request.url)


def ask(page: Page, text: str) -> None:
    page.fill("#chat-box textarea", text)
    page.press("#chat-box textarea", "Enter")


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_function(
        "name => document.querySelector('[role=tab][aria-selected=true]')?.innerText === name",
        arg=name,
    )


def text_of(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def wait_for_text(page: Page, selector: str, text: str, timeout_s: float = 20) -> None:
    page.wait_for_function(
        "([s, t]) => document.querySelector(s)?.innerText.includes(t)",
        arg=[selector, text],
        timeout=timeout_s * 1000,
    )
