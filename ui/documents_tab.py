"""The Documents tab: its widgets, and which handler each of them calls. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.conversation_widgets import (
    build_box,
    build_log,
    build_main_button,
    build_offer_button,
    build_stop_button,
)
from ui.document_handlers import DocumentHandlers, DocumentView
from ui.own_html import own_html
from ui.preset_picker import PresetPicker, build_preset_picker
from ui.widgets.upload_field import UploadField
from ui.wiring import (
    AT_ONCE,
    POLLING,
    QUIET,
    Updates,
    changes,
    returned,
    show_while,
    shown_with,
    streamed,
)

INTRO = (
    "<p class='nq-under'>A document is read into a compressed cache of its own. Questions "
    "are answered from there, with page numbers. Pages and tokens are counted first.</p>"
)
LOG_NOTE = (
    '<div class="nq-empty"><h3>Ask about these pages</h3>'
    "Every question goes to the pages alone: the cache returns to the document after each answer, "
    "so earlier questions are not remembered.</div>"
)
# a press on a cell of the strip tells its page number
STRIP_JS = """element.addEventListener('click', (event) => {
  const page = event.target.dataset.page;
  if (page) trigger('click', {page: Number(page)});
});"""


@dataclass(frozen=True)
class DocumentWidgets:
    """Everything in the tab that changes or is pressed."""

    file: UploadField
    password_row: gr.Row
    password: gr.Textbox
    unlock: gr.Button
    open_part: gr.Column
    card: gr.HTML
    pages: gr.Textbox
    fit: gr.HTML
    fewer: gr.Button
    offer: gr.Button
    read: gr.Button
    stop: gr.Button
    status: gr.HTML
    spoken: gr.HTML
    ask_part: gr.Column
    log: gr.Chatbot
    figures: gr.HTML
    box: gr.Textbox
    ask: gr.Button
    cited: gr.Radio
    any_page: gr.Dropdown
    page: gr.HTML
    gauge: gr.HTML
    strip: gr.HTML
    picker: PresetPicker


def build_documents_tab() -> DocumentWidgets:
    """Lay the tab out; nothing is wired yet."""
    with gr.Row(elem_classes="nq-columns"):
        with gr.Column(scale=7, min_width=320, elem_classes="nq-main"):
            parts = _build_file() | _build_choice() | _build_progress() | _build_questions()
        with gr.Column(scale=3, min_width=300, elem_classes="nq-side"):
            parts["gauge"] = own_html("doc-gauge")
            parts["picker"] = build_preset_picker("doc-preset")
            parts["strip"] = own_html("doc-strip", script=STRIP_JS)
    return DocumentWidgets(**parts)


def _build_file() -> dict[str, Any]:
    own_html("doc-intro", value=INTRO)
    file = UploadField(
        "A PDF, text, source file, web page, mail or notebook", elem_id="doc-file", height=140
    )
    with gr.Row(visible=False, elem_classes="nq-ask") as password_row:
        password = gr.Textbox(
            type="password", label="Password of the file", elem_id="doc-password", scale=6
        )
        unlock = gr.Button("Open", elem_id="doc-unlock", scale=1, min_width=90)
    return {"file": file, "password_row": password_row, "password": password, "unlock": unlock}


def _build_choice() -> dict[str, Any]:
    with gr.Column(visible=False, elem_classes="nq-main") as open_part:
        card = own_html("doc-card")
        with gr.Row(elem_classes="nq-ask"):
            pages = gr.Textbox(
                label="Pages to read",
                placeholder="1-15, 18",
                elem_id="doc-pages",
                scale=6,
                min_width=180,
            )
            read = build_main_button("Read", "doc-read")
        fit = own_html("doc-fit")
        fewer = gr.Button("", visible=False, size="sm", elem_id="doc-fewer", min_width=200)
    return {
        "open_part": open_part,
        "card": card,
        "pages": pages,
        "read": read,
        "fit": fit,
        "fewer": fewer,
        "offer": build_offer_button("doc-offer"),
    }


def _build_progress() -> dict[str, Any]:
    status = own_html("doc-status")
    spoken = own_html("doc-spoken", "nq-unseen")
    stop = build_stop_button("doc-stop", size="sm")
    return {"status": status, "spoken": spoken, "stop": stop}


def _build_questions() -> dict[str, Any]:
    with gr.Column(visible=False, elem_classes="nq-main") as ask_part:
        log = build_log("doc-log", "Questions and answers", "44vh", LOG_NOTE)
        figures = own_html("doc-figures")
        with gr.Row(elem_classes="nq-ask"):
            box = build_box("doc-box", "Question", "Ask about the pages that were read")
            ask = build_main_button("Ask", "doc-ask")
        with gr.Row():
            cited = gr.Radio([], label="Pages the answer cites", elem_id="doc-cited", visible=False)
            any_page = gr.Dropdown([], label="Show a page", elem_id="doc-any-page", min_width=140)
        page = own_html("doc-page")
    return {
        "ask_part": ask_part,
        "log": log,
        "figures": figures,
        "box": box,
        "ask": ask,
        "cited": cited,
        "any_page": any_page,
        "page": page,
    }


def wire_documents_tab(
    w: DocumentWidgets, handlers: DocumentHandlers, workspace_id: gr.State
) -> None:
    """Connect the tab's buttons and keys to the handlers."""

    def updates(view: DocumentView) -> Updates:
        return document_updates(w, view)

    outputs = list(document_outputs(w))
    opened = streamed(handlers.open_file, updates)
    w.file.upload(opened, [w.file, workspace_id], outputs, **POLLING)
    w.file.clear(opened, [w.file, workspace_id], outputs, **POLLING)
    gr.on(
        [w.unlock.click, w.password.submit],
        streamed(handlers.open_with_password, updates),
        [w.password, workspace_id],
        outputs,
        **POLLING,
    ).then(lambda: "", None, w.password, **AT_ONCE)
    w.pages.change(
        returned(handlers.choose_pages, updates),
        [w.pages, workspace_id],
        outputs,
        trigger_mode="always_last",
        **QUIET,
    )
    w.fewer.click(
        returned(handlers.choose_fitting, updates), [w.pages, workspace_id], outputs, **QUIET
    )
    w.offer.click(returned(handlers.take_offer, updates), [w.pages, workspace_id], outputs, **QUIET)
    read = gr.on(
        [w.read.click, w.pages.submit],
        streamed(handlers.read, updates),
        [w.pages, workspace_id],
        outputs,
        **POLLING,
    )
    ask = gr.on(
        [w.ask.click, w.box.submit],
        streamed(handlers.ask, updates),
        [w.box, workspace_id],
        outputs,
        **POLLING,
    )
    w.stop.click(
        returned(handlers.stop, updates), workspace_id, outputs, cancels=[read, ask], **AT_ONCE
    ).then(streamed(handlers.after_stop, updates), workspace_id, outputs, **POLLING)
    w.log.clear(returned(handlers.forget_questions, updates), workspace_id, outputs, **QUIET)
    _wire_pages(w, handlers, workspace_id)


def _wire_pages(w: DocumentWidgets, handlers: DocumentHandlers, workspace_id: gr.State) -> None:
    def updates(view: DocumentView) -> Updates:
        return document_updates(w, view)

    show = returned(handlers.show_page, updates)
    for chooser in (w.cited, w.any_page):
        chooser.input(show, [chooser, workspace_id], w.page, **QUIET)

    def show_cell(workspace_id: str, event: gr.EventData, request: gr.Request) -> DocumentView:
        return handlers.show_page(event.page, workspace_id, request)

    w.strip.click(returned(show_cell, updates), workspace_id, w.page, **QUIET)


def document_outputs(w: DocumentWidgets) -> tuple[gr.blocks.Block, ...]:
    """The widgets that a view may change."""
    return (
        w.password_row,
        w.open_part,
        w.card,
        w.pages,
        w.fit,
        w.fewer,
        w.offer,
        w.read,
        w.stop,
        w.status,
        w.spoken,
        w.ask_part,
        w.log,
        w.figures,
        w.box,
        w.ask,
        w.cited,
        w.any_page,
        w.page,
        w.gauge,
        w.strip,
    )


def document_updates(w: DocumentWidgets, view: DocumentView) -> Updates:
    """The view as Gradio takes it: only what is not None."""
    return changes(
        (w.password_row, show_while(view.wants_password)),
        (w.open_part, show_while(view.is_open)),
        (w.card, view.card),
        (w.pages, view.pages_text),
        (w.fit, view.fit),
        (w.fewer, shown_with(view.fitting_button)),
        (w.offer, shown_with(view.offer)),
        (w.read, _read_button(view)),
        (w.stop, show_while(view.is_busy, value="Stop")),
        (w.status, view.status),
        (w.spoken, view.spoken),
        (w.ask_part, show_while(view.is_read)),
        (w.log, view.messages),
        (w.figures, view.figures),
        (w.box, view.draft),
        (w.ask, None if view.is_busy is None else gr.update(interactive=not view.is_busy)),
        (w.cited, _page_choices(view.cited)),
        (w.any_page, None if view.all_pages is None else gr.update(choices=list(view.all_pages))),
        (w.page, view.page),
        (w.gauge, view.gauge),
        (w.strip, view.strip),
    )


def _read_button(view: DocumentView) -> dict | None:
    """One filled button on the screen: Read until the pages are read, then Ask."""
    parts: dict[str, Any] = {}
    if view.is_read is not None:
        parts["variant"] = "secondary" if view.is_read else "primary"
        parts["value"] = "Read again" if view.is_read else "Read"
    if view.is_busy is not None:
        parts["interactive"] = not view.is_busy
    return gr.update(**parts) if parts else None


def _page_choices(cited: tuple[int, ...] | None) -> dict | None:
    if cited is None:
        return None
    choices = [(f"p. {number}", number) for number in cited]
    return gr.update(choices=choices, value=None, visible=bool(cited))
