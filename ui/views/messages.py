"""Messages in the form that the page's list of messages takes.

Knows roles and Markdown. Must not know widgets or chats.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexusquant.engine import Message
from ui.views.safe_markdown import as_answer, as_typed


def drawn_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Each message with a text that is safe to draw: a person's as typed, an answer as Markdown."""
    return [
        {
            "role": message.role,
            "content": as_typed(message.content)
            if message.role == "user"
            else as_answer(message.content),
        }
        for message in messages
    ]
