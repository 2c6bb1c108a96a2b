"""A page over a fake engine, served in this process as the app serves it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fake_engine import FakeEngine, Script, numbered_words
from test_following import wait_for
from visitors import make_services

from ui.layout import build_ui
from ui.server.server import build_app, listen
from ui.services import Services

FIRST_PORT = 18_860
PASSWORDS = {"ada": "correct horse battery", "bob": "nine geese in a row"}
"""Two users for pages that ask for a login."""

NOBODY: Mapping[str, str] = {}


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
        self.services.sessions.close()
        self.services.models.stop()
        self.services.models.stop_tests()
        self.engine.script = Script(numbered_words)
        assert self.engine.submit(lambda: iter_nothing()).wait(10)
        wait_for(lambda: not self.services.models.is_testing)
        self.engine.report = None


def iter_nothing():
    yield from ()


@contextlib.contextmanager
def serve_fake(
    data_dir: Path,
    *,
    is_loaded: bool = True,
    passwords: Mapping[str, str] = NOBODY,
    names: Sequence[str] = ("127.0.0.1",),
    host: str = "127.0.0.1",
    trusts_proxy: bool = False,
) -> Iterator[Site]:
    engine = FakeEngine(Script(numbered_words), is_loaded=is_loaded)
    services = make_services(engine, data_dir, grace_s=5.0)
    listener = listen(host, FIRST_PORT)
    port = listener.getsockname()[1]
    page = build_ui(services)
    app = build_app(page, services.uploads, names, passwords, port, trusts_proxy=trusts_proxy)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    name = f"[{host}]" if ":" in host else host
    yield Site(f"http://{name}:{port}/", engine, services)
    services.close()
    server.should_exit = True
    thread.join(5)
    engine.close()
