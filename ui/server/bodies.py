"""Bodies of requests, read and checked once, where they come in.

Knows JSON and what the page's script sends. Must not know who sends it, or what is done with it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive

MAX_JSON_BYTES = 16_000_000
"""A pasted book is about 2 MB."""

MAX_SMALL_BYTES = 64_000
"""Logins and the like."""

MAX_DEPTH = 32
MAX_ITEMS = 100_000
SESSION_HASH = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SEPARATORS = (b",", b"[", b"{")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
# what the page's script sends of an event; everything else is for uses that this page does not have
_EVENT_KEYS = ("data", "event_data", "event_id", "fn_index", "session_hash", "trigger_id")


class RefusedError(Exception):
    """A request that is not taken.

    Args:
        status: HTTP status of the answer.
        text: One sentence for who sent it.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


async def read_body(receive: Receive, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        RefusedError: It is longer, or its sender went away.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedError(400, "The request was broken off.")
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise RefusedError(
                413, f"That is too long: a request may have {max_bytes // 1000:,} kB at most."
            )
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` once, then goes on with what the server says."""
    is_given = False

    async def give() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


def checked_event(body: bytes, check_upload: Callable[[object], str]) -> dict[str, Any]:
    """The event in a body, with plain strings and finite numbers, and ids instead of files.

    Args:
        body: JSON.
        check_upload: Returns an id of an upload that is this user's; raises `RefusedError` for
            all else that may stand where a browser names a file.

    Raises:
        RefusedError: It is no event that this page sends.
    """
    _check_number_of_parts(body)
    try:
        event = json.loads(body, parse_constant=_refuse_number)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "The request is not valid JSON.") from error
    if not isinstance(event, dict):
        raise RefusedError(400, "The request is no event of this page.")
    clean = _Cleaner(check_upload)
    kept = {key: clean(event[key]) for key in _EVENT_KEYS if event.get(key) is not None}
    session = kept.get("session_hash")
    if not isinstance(session, str) or not SESSION_HASH.fullmatch(session):
        raise RefusedError(400, "The request names no session.")
    if type(kept.get("fn_index")) is not int:
        raise RefusedError(400, "The request names no event.")
    for key, kind in (("data", list), ("event_id", str), ("trigger_id", int)):
        if key in kept and type(kept[key]) is not kind:
            raise RefusedError(400, f"The request's {key} is of the wrong type.")
    return kept


def _check_number_of_parts(body: bytes) -> None:
    """Refuse millions of parts before they are parsed: that would hold up everybody for seconds."""
    if sum(map(body.count, _SEPARATORS)) <= MAX_ITEMS:
        return
    # most of them may stand in what somebody wrote
    bare = _STRING.sub(b"", body)
    if sum(map(bare.count, _SEPARATORS)) > MAX_ITEMS:
        raise RefusedError(400, "The request is nested too deeply, or has too many parts.")


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


class _Cleaner:
    """Copies a value of JSON, and refuses what no page of ours sends."""

    def __init__(self, check_upload: Callable[[object], str]) -> None:
        self._check_upload = check_upload
        self._num_items = 0

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self._num_items += 1
        if depth > MAX_DEPTH or self._num_items > MAX_ITEMS:
            raise RefusedError(400, "The request is nested too deeply, or has too many parts.")
        if isinstance(value, str):
            return plain_text(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise RefusedError(400, "A number in the request is too large.")
        if isinstance(value, list):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return self._copy_object(value, depth)
        return value

    def _copy_object(self, value: dict[str, Any], depth: int) -> dict[str, Any] | str:
        copied = {plain_text(key): self(item, depth + 1) for key, item in value.items()}
        meta = copied.get("meta")
        # Gradio opens or fetches what such an object names, so none of this kind reaches it
        if "path" in copied or (isinstance(meta, dict) and "_type" in meta):
            return self._check_upload(copied.get("path"))
        return copied


def plain_text(text: str) -> str:
    """The text with each half of a character replaced: such text cannot be written as UTF-8."""
    return _SURROGATE.sub("\ufffd", text)
