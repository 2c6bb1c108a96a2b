"""What the Chat tab does when something is pressed, as plain generators of views.

Knows desks and pieces of HTML; must not know the widgets they go to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import gradio as gr
import plotly.graph_objects as go

from nexusquant.engine import Message
from ui import gauge, plots
from ui.following import Snapshot
from ui.services import Services
from ui.sessions import Workspace
from ui.state.fields import message_of
from ui.views.messages import drawn_messages

SHOWN_MESSAGES = 60
"""Messages the page draws; every one more makes each streamed update slower."""

CAME_BACK = "The page was loaded again; the answer went on meanwhile."


@dataclass(frozen=True)
class ChatView:
    """What the tab shows; None leaves a part as it is."""

    messages: list[dict[str, str]] | None = None
    status: str | None = None
    is_busy: bool | None = None
    gauge: str | None = None
    figures: str | None = None
    figure: go.Figure | None = None
    has_turns: bool | None = None
    table: str | None = None
    draft: str | None = None
    spoken: str | None = None
    offer: str | None = None
    """What the button says that scales positions; "" hides it."""


class ChatHandlers:
    """One method per button; each yields or returns views."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def send(self, text: str, workspace_id: str, request: gr.Request) -> Iterator[ChatView]:
        """Ask what is in the input and follow the answer."""
        workspace = self._services.workspace(workspace_id, request)
        try:
            message = message_of(text)
        except ValueError as error:
            yield ChatView(status=gauge.notice(str(error), "warn"))
            return
        if not message:
            yield ChatView()
            return
        if not workspace.chat.send(message, workspace.sampling):
            yield ChatView(status=gauge.notice("Wait for the answer, or stop it first.", "warn"))
            return
        yield ChatView(draft="", is_busy=True)
        yield from self._stream(workspace)

    def regenerate(self, workspace_id: str, request: gr.Request) -> Iterator[ChatView]:
        """Answer the last question again and follow the answer."""
        workspace = self._services.workspace(workspace_id, request)
        if not workspace.chat.regenerate(workspace.sampling):
            yield ChatView(status=gauge.notice("There is no question to answer again.", "info"))
            return
        yield from self._stream(workspace)

    def take_offer(self, workspace_id: str, request: gr.Request) -> Iterator[ChatView]:
        """Answer the refused question with scaled positions and follow the answer."""
        workspace = self._services.workspace(workspace_id, request)
        if workspace.chat.take_offer(workspace.sampling):
            self._services.models.test_scaled(workspace.chat.scaling)
            yield from self._stream(workspace)
        else:
            yield ChatView(offer="")

    def follow(self, workspace_id: str, request: gr.Request) -> Iterator[ChatView]:
        """Show the chat as it stands; if an answer is being written, follow it to its end."""
        workspace = self._services.workspace(workspace_id, request)
        yield from self._stream(workspace, CAME_BACK if workspace.chat.is_busy else "")

    def stop(self, workspace_id: str, request: gr.Request) -> ChatView:
        """Ask the engine to stop; what is shown until it has."""
        workspace = self._services.workspace(workspace_id, request)
        workspace.chat.stop()
        return self._running(workspace, workspace.chat.snapshot())

    def after_stop(self, workspace_id: str, request: gr.Request) -> Iterator[ChatView]:
        """Wait for the engine to let go and show the chat as it was left."""
        yield from self._stream(self._services.workspace(workspace_id, request))

    def clear(self, workspace_id: str, request: gr.Request) -> ChatView:
        """Forget the conversation and start with an empty one."""
        workspace = self._services.workspace(workspace_id, request)
        workspace.chat.clear()
        return replace(self._resting(workspace), status="")

    def _stream(self, workspace: Workspace, came_back: str = "") -> Iterator[ChatView]:
        phase = None
        for now in workspace.chat.snapshots():
            if now.phase.is_over:
                break
            view = self._running(workspace, now, came_back)
            # a screen reader is told of each phase once
            yield view if now.phase is not phase else replace(view, spoken=None)
            phase = now.phase
        self._services.sessions.make_room()
        yield self._resting(workspace)

    def _running(self, workspace: Workspace, now: Snapshot, came_back: str = "") -> ChatView:
        return ChatView(
            messages=shown(workspace.chat.messages()),
            status=gauge.notice(came_back, "info") + gauge.request_status(now),
            is_busy=True,
            spoken=gauge.spoken(now.phase, 0),
            offer="",
        )

    def _resting(self, workspace: Workspace) -> ChatView:
        chat, turns = workspace.chat, workspace.chat.turns()
        now = chat.snapshot()
        return ChatView(
            messages=shown(chat.messages()),
            status=gauge.request_status(now) or gauge.scaled_positions(chat.scaling),
            offer=gauge.offer_label(chat.offer()),
            is_busy=chat.is_busy,
            gauge=self.gauge_of(workspace),
            figures=gauge.figures(turns[-1] if turns else None),
            figure=plots.memory_per_turn(turns) if turns else None,
            has_turns=bool(turns),
            table=gauge.turns_table(turns),
            draft=chat.unsent_text() or None,
            spoken=gauge.spoken(now.phase, len(now.text.split())),
        )

    def gauge_of(self, workspace: Workspace) -> str:
        """The gauge of this chat with the memory of this moment."""
        services, scaling = self._services, workspace.chat.scaling
        info = gauge.with_scaling(services.engine.info, scaling)
        return gauge.gauge(workspace.chat.usage(), info, services.memory())


def shown(messages: list[Message]) -> list[dict[str, str]]:
    """The newest messages in the form the Chatbot takes, saying so when older ones are left out."""
    left_out = len(messages) - SHOWN_MESSAGES
    drawn = drawn_messages(messages[-SHOWN_MESSAGES:])
    if left_out > 0:
        note = f"*{left_out} earlier messages are not drawn here. The model still has them.*"
        drawn.insert(0, {"role": "assistant", "content": note})
    return drawn
