"""A page over a fake engine, served in this process, and a real Chromium to look at it with."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fake_engine import FakeEngine, Script, numbered_words
from playwright.sync_api import BrowserContext, Page, sync_playwright
from test_following import wait_for
from visitors import make_services

from ui.layout import build_ui
from ui.server.server import build_app, listen
from ui.services import Services

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
FIRST_PORT = 18_860


@dataclass
class Site:
    """A page that is being served, and the strings behind it."""

    url: str
    engine: FakeEngine
    services: Services

    @property
    def script(self) -> Script:
        return self.engine.script

    def rest(self) -> None:
        """Stop what runs and forget what the last test scripted."""
        self.services.close()
        self.engine.script = Script(numbered_words)
        assert self.engine.submit(lambda: iter_nothing()).wait(10)
        wait_for(lambda: not self.services.models.is_testing)
        self.engine.report = None


def iter_nothing():
    yield from ()


@contextlib.contextmanager
def serve_fake(data_dir: Path, *, is_loaded: bool = True) -> Iterator[Site]:
    engine = FakeEngine(Script(numbered_words), is_loaded=is_loaded)
    services = make_services(engine, data_dir, grace_s=5.0)
    listener = listen("127.0.0.1", FIRST_PORT)
    port = listener.getsockname()[1]
    app = build_app(build_ui(services), services.uploads, ["127.0.0.1"], {}, port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield Site(f"http://127.0.0.1:{port}/", engine, services)
    services.close()
    server.should_exit = True
    thread.join(5)
    engine.close()


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
