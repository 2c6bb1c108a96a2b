"""Who may log in, how often they may try, and who is logged in.

Knows passwords only as hashes. Must not know pages or routes.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

MAX_FAILURES = 10
LOCK_S = 600.0
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 4.0
MAX_REMEMBERED = 10_000
HASHES_AT_ONCE = 2
"""scrypt takes 16 MB and a processor each time."""

LOGIN_LASTS_S = 7 * 86_400.0
MAX_LOGINS_PER_USER = 20
MAX_PASSWORD_LENGTH = 1024


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
        self._places = asyncio.Semaphore(HASHES_AT_ONCE)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    async def may_enter(self, name: str, password: str) -> bool:
        """Whether the password is right; takes the same time for a name that does not exist."""
        if len(password) > MAX_PASSWORD_LENGTH:
            return False
        salt, known = self._hashes.get(name, self._nobody)
        async with self._places:
            _, given = await asyncio.to_thread(_hash, password, salt)
        return secrets.compare_digest(known, given) and name in self._hashes


@dataclass
class _Record:
    failures: int = 0
    last_s: float = 0.0


class LoginThrottle:
    """Counts tries before they are looked at, by address and by name, and slows them down.

    A right password gives back its own try and clears its name's count. It does not clear the
    count of the address: who knows one password could otherwise guess at another's for ever. From
    an address where a name has logged in before, that name's count does not matter: nobody can lock
    others out by guessing at their passwords from elsewhere.

    Args:
        sleep: Waits; tests put their own clock here.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def take_turn(self, address: str, name: str) -> bool:
        """Count a try and wait as long as it has to; False when there were too many already."""
        of_address, of_name = self._both(address, name)
        records = [of_address] if (address, name) in self._known else [of_address, of_name]
        failures = max(record.failures for record in records)
        if failures >= MAX_FAILURES:
            return False
        for record in records:
            record.failures += 1
            record.last_s = time.monotonic()
        if failures:
            await self._sleep(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**failures))
        return True

    def forgive(self, address: str, name: str) -> None:
        """The try that was counted last had the right password."""
        of_address, of_name = self._both(address, name)
        of_address.failures = max(0, of_address.failures - 1)
        of_name.failures = 0
        self._known[address, name] = None
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def _both(self, address: str, name: str) -> tuple[_Record, _Record]:
        return self._record(("address", address)), self._record(("name", name))

    def _record(self, key: tuple[str, str]) -> _Record:
        record = self._records.setdefault(key, _Record())
        self._records.move_to_end(key)
        if time.monotonic() - record.last_s > LOCK_S:
            record.failures = 0
        # the oldest go one by one: emptying the list would forgive everybody
        while len(self._records) > MAX_REMEMBERED:
            self._records.popitem(last=False)
        return record


class Logins:
    """Who is logged in, by the unguessable token in a cookie. Lost when the program ends."""

    def __init__(self) -> None:
        self._by_token: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def begin(self, name: str) -> str:
        """Log `name` in; returns the token of the cookie."""
        own = [token for token, (user, _) in self._by_token.items() if user == name]
        for token in own[: max(0, len(own) - MAX_LOGINS_PER_USER + 1)]:
            del self._by_token[token]
        token = secrets.token_urlsafe(32)
        self._by_token[token] = name, time.monotonic() + LOGIN_LASTS_S
        return token

    def user_of(self, token: str | None) -> str | None:
        """The name behind a cookie; None if it is unknown or too old."""
        name, ends = self._by_token.get(token or "", (None, 0.0))
        if name is not None and time.monotonic() > ends:
            del self._by_token[token or ""]
            return None
        return name

    def end(self, token: str | None) -> None:
        """Log out."""
        self._by_token.pop(token or "", None)


def _hash(password: str, salt: bytes) -> tuple[bytes, bytes]:
    data = password.encode("utf-8", "replace")
    return salt, hashlib.scrypt(data, salt=salt, n=2**14, r=8, p=1)
