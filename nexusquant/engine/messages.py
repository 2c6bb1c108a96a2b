"""One message of a chat. Knows roles. Must not know templates, tokens or who keeps the list."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    """One message; `role` is "system", "user" or "assistant"."""

    role: str
    content: str
