"""A server with two users, and what they and strangers send."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from caller import Caller
from served import PASSWORDS, Site, serve_fake

from ui.server import login


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    with serve_fake(tmp_path_factory.mktemp("data"), passwords=PASSWORDS) as site:
        yield site


@pytest.fixture(scope="module")
def open_site(tmp_path_factory) -> Iterator[Site]:
    """The same without logins."""
    with serve_fake(tmp_path_factory.mktemp("data")) as site:
        yield site


@pytest.fixture(scope="module")
def logins(site) -> dict[str, httpx.Cookies]:
    """Cookies of both users: logging in is slow on purpose."""
    cookies = {}
    for name, password in PASSWORDS.items():
        with Caller(site.url, name, password) as caller:
            cookies[name] = caller.http.cookies
    return cookies


@pytest.fixture
def call(site, logins) -> Iterator[Callable[..., Caller]]:
    """Opens a page for ada, for bob, or for a stranger (None); `anew` with a login of its own."""
    callers = []

    def open_caller(name: str | None = None, *, anew: bool = False) -> Caller:
        password = PASSWORDS[name] if name and anew else ""
        callers.append(Caller(site.url, name if anew else None, password))
        if name and not anew:
            callers[-1].http.cookies = logins[name]
        return callers[-1]

    yield open_caller
    for caller in callers:
        caller.http.close()
    site.rest()


@pytest.fixture
def quick_throttle(monkeypatch):
    monkeypatch.setattr(login, "FIRST_DELAY_S", 0.0)
