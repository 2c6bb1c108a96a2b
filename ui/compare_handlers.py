"""What the Compare tab does when something is pressed, as plain generators of views.

Knows desks and pieces of HTML; must not know the widgets they go to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from nexusquant.config import PRESETS, CompressionConfig
from nexusquant.documents import format_page_ranges
from ui import gauge
from ui.compare_desk import CompareDesk, Question, Side
from ui.differences import first_difference, marked
from ui.document_desk import DocumentDesk
from ui.following import Phase
from ui.presenters import (
    byte_size,
    config_label,
    count,
    escape,
    factor,
    rate,
    seconds,
)
from ui.services import Services
from ui.sessions import Workspace
from ui.state.fields import message_of

CURRENT = "current"
IN_TURN = "Both run one after the other on the same engine, each taking the likeliest token."


@dataclass(frozen=True)
class CompareView:
    """What the tab shows; None leaves a part as it is."""

    left: str | None = None
    right: str | None = None
    table: str | None = None
    status: str | None = None
    spoken: str | None = None
    is_busy: bool | None = None
    document_label: str | None = None
    """What the choice of the document says; "" hides it."""


class CompareHandlers:
    """One method per button; each yields or returns views."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def run(
        self,
        text: str,
        left: str,
        right: str,
        with_document: bool,
        workspace_id: str,
        request: gr.Request,
    ) -> Iterator[CompareView]:
        """Ask on both settings and follow both answers."""
        workspace = self._services.workspace(workspace_id, request)
        try:
            message = message_of(text)
            if not message:
                yield CompareView(status=gauge.notice("Write a question first.", "info"))
                return
            question = _question(message, workspace.documents if with_document else None)
            configs = (_config(left, workspace), _config(right, workspace))
            workspace.compare.start(question, configs, workspace.sampling)
        except ValueError as error:
            yield CompareView(status=gauge.notice(str(error), "warn"))
            return
        yield from self._stream(workspace)

    def follow(self, workspace_id: str, request: gr.Request) -> Iterator[CompareView]:
        """Show the comparison as it stands; if one runs, follow it to its end."""
        yield from self._stream(self._services.workspace(workspace_id, request))

    def stop(self, workspace_id: str, request: gr.Request) -> CompareView:
        """Ask the engine to stop both runs."""
        workspace = self._services.workspace(workspace_id, request)
        workspace.compare.stop()
        return CompareView(status=gauge.notice("Stopping.", "busy"))

    def document_choice(self, workspace_id: str, request: gr.Request) -> CompareView:
        """Offer the document of the Documents tab, if there is one."""
        desk = self._services.workspace(workspace_id, request).documents
        return CompareView(document_label=_document_label(desk))

    def _stream(self, workspace: Workspace) -> Iterator[CompareView]:
        phases = None
        for sides in workspace.compare.updates():
            if not sides:
                return
            if not workspace.compare.is_busy:
                break
            now = tuple(side.now.phase for side in sides)
            spoken = gauge.spoken(_current(sides).now.phase, 0) if now != phases else None
            yield _running(sides, spoken)
            phases = now
        yield _finished(workspace.compare)


def _question(text: str, desk: DocumentDesk | None) -> Question:
    if desk is None or desk.opened is None:
        return Question(text)
    return Question(text, desk.opened.document, desk.chosen(desk.opened.pages_text))


def _document_label(desk: DocumentDesk) -> str:
    if desk.opened is None:
        return ""
    pages = format_page_ranges(desk.chosen(desk.opened.pages_text))
    return f"Over {desk.opened.document.name}, pages {pages}"


def _config(name: str, workspace: Workspace) -> CompressionConfig:
    return workspace.config if name == CURRENT else PRESETS[name]


def _current(sides: tuple[Side, ...]) -> Side:
    return next((side for side in sides if not side.now.phase.is_over), sides[-1])


def _running(sides: tuple[Side, ...], spoken: str | None) -> CompareView:
    left, right = sides
    waits = not left.now.phase.is_over or right.now.phase is Phase.LOADING
    return CompareView(
        left=_column(left, None),
        right=_column(right, None, "Waits for the other side." if waits else ""),
        table="",
        status=gauge.notice(IN_TURN, "busy"),
        spoken=spoken,
        is_busy=True,
    )


def _finished(desk: CompareDesk) -> CompareView:
    left, right = desk.sides()
    are_whole = all(side.now.phase is Phase.DONE for side in (left, right))
    index = first_difference(left.now.text, right.now.text) if are_whole else None
    return CompareView(
        left=_column(left, index),
        right=_column(right, index),
        table=_table(left, right, _agreement(left, right, index)) if are_whole else "",
        status="",
        spoken=gauge.spoken(right.now.phase, len(right.now.text.split())),
        is_busy=False,
    )


def _column(side: Side, word_index: int | None, waiting: str = "") -> str:
    status = gauge.notice(waiting, "busy") if waiting else gauge.request_status(side.now)
    return (
        f'<section class="nq-card nq-answer"><h3>{escape(config_label(side.config))}</h3>{status}'
        f'<div class="nq-text">{marked(side.now.text, word_index)}</div></section>'
    )


def _agreement(left: Side, right: Side, index: int | None) -> str:
    if index is None:
        return f"The same text, word for word ({count(len(left.now.text.split()))} words)."
    words = max(len(left.now.text.split()), len(right.now.text.split()))
    return f"The first difference is at word {count(index + 1)} of {count(words)}; it is marked."


def _table(left: Side, right: Side, agreement: str) -> str:
    names = [escape(config_label(side.config)) for side in (left, right)]
    columns = [_figures(side) for side in (left, right)]
    rows = "".join(
        f'<tr><th scope="row">{label}</th><td>{value}</td><td>{columns[1][label]}</td></tr>'
        for label, value in columns[0].items()
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<section class="nq-card"><p>{agreement}</p><div class="nq-scroll">'
        f'<table class="nq-table"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        "</div></section>"
    )


def _figures(side: Side) -> dict[str, str]:
    if side.now.finished is None:
        return {}
    stats = side.now.finished.stats
    return {
        "KV cache stored": byte_size(stats.usage.stored_bytes),
        "In 16 bits": byte_size(stats.usage.uncompressed_bytes),
        "Factor, measured": factor(stats.usage.compression_factor),
        "Evicted tokens": count(stats.usage.num_evicted_tokens),
        "First token": seconds(stats.ttft_s),
        "Reading speed": rate(stats.prefill_tok_s),
        "Answering speed": rate(stats.decode_tok_s),
        "New tokens": count(stats.num_new_tokens),
    }
