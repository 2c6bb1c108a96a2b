"""Who may log in, and how often they may try. Knows passwords only as hashes."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_FAILURES = 10
LOCK_S = 600.0
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 4.0
MAX_REMEMBERED = 10_000


class Accounts:
    """Names and salted hashes of their passwords.

    Args:
        passwords: Plain passwords by name; not kept.
    """

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._hashes = {
            name: _hash(text, secrets.token_bytes(16)) for name, text in passwords.items()
        }
        self._nobody = _hash("", secrets.token_bytes(16))

    async def may_enter(self, name: str, password: str) -> bool:
        """Whether the password is right; takes the same time for a name that does not exist."""
        salt, known = self._hashes.get(name, self._nobody)
        _, given = await asyncio.to_thread(_hash, password, salt)
        return secrets.compare_digest(known, given) and name in self._hashes


@dataclass
class _Record:
    failures: int = 0
    last_s: float = 0.0


class LoginThrottle:
    """Slows down wrong logins from one address, and refuses more after the tenth for a while.

    Args:
        app: What is served behind it.
        sleep: Waits; tests put their own clock here.
    """

    def __init__(
        self, app: ASGIApp, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._app = app
        self._sleep = sleep
        self._records: dict[str, _Record] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but logins that come too often."""
        is_login = scope["type"] == "http" and scope["path"].rstrip("/") == "/login"
        if not is_login or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        record = self._record_of((scope.get("client") or ("",))[0])
        if record.failures >= MAX_FAILURES:
            text = "Too many wrong passwords. Try again in ten minutes."
            await PlainTextResponse(text, status_code=429)(scope, receive, send)
            return
        if record.failures:
            await self._sleep(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**record.failures))

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                is_wrong = message["status"] >= 400
                record.failures = record.failures + 1 if is_wrong else 0
                record.last_s = time.monotonic()
            await send(message)

        await self._app(scope, receive, noting)

    def _record_of(self, address: str) -> _Record:
        if len(self._records) > MAX_REMEMBERED:
            self._records.clear()
        record = self._records.setdefault(address, _Record())
        if time.monotonic() - record.last_s > LOCK_S:
            record.failures = 0
        return record


def _hash(password: str, salt: bytes) -> tuple[bytes, bytes]:
    return salt, hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)
