"""The Compare tab: its widgets, and which handler each of them calls. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.compare_handlers import CURRENT, CompareHandlers, CompareView
from ui.conversation_widgets import build_box, build_main_button, build_stop_button
from ui.own_html import own_html
from ui.preset_picker import CHOICES
from ui.wiring import AT_ONCE, POLLING, QUIET, Updates, changes, returned, show_while, streamed

INTRO = (
    "<p class='nq-under'>The same question on two settings of the cache, one after the other on "
    "this engine. Both take the likeliest token, so that only the cache makes a difference.</p>"
)


@dataclass(frozen=True)
class CompareWidgets:
    """Everything in the tab that changes or is pressed."""

    question: gr.Textbox
    run: gr.Button
    stop: gr.Button
    left_preset: gr.Dropdown
    right_preset: gr.Dropdown
    with_document: gr.Checkbox
    status: gr.HTML
    spoken: gr.HTML
    left: gr.HTML
    right: gr.HTML
    table: gr.HTML


def build_compare_tab() -> CompareWidgets:
    """Lay the tab out; nothing is wired yet."""
    own_html("cmp-intro", value=INTRO)
    with gr.Row(elem_classes="nq-ask"):
        question = build_box("cmp-box", "Question", "A question for both")
        run = build_main_button("Compare", "cmp-run")
        stop = build_stop_button("cmp-stop")
    with_document = gr.Checkbox(
        False, label="Over the document", visible=False, elem_id="cmp-document", container=False
    )
    status = own_html("cmp-status")
    spoken = own_html("cmp-spoken", "nq-unseen")
    choices = [*CHOICES, ("As in Chat", CURRENT)]
    with gr.Row(elem_classes="nq-pair"):
        with gr.Column(min_width=280, elem_classes="nq-main"):
            left_preset = gr.Dropdown(
                choices, value="off", label="First", elem_id="cmp-left-preset"
            )
            left = own_html("cmp-left")
        with gr.Column(min_width=280, elem_classes="nq-main"):
            right_preset = gr.Dropdown(
                choices, value=CURRENT, label="Second", elem_id="cmp-right-preset"
            )
            right = own_html("cmp-right")
    table = own_html("cmp-table")
    return CompareWidgets(
        question,
        run,
        stop,
        left_preset,
        right_preset,
        with_document,
        status,
        spoken,
        left,
        right,
        table,
    )


def wire_compare_tab(w: CompareWidgets, handlers: CompareHandlers, workspace_id: gr.State) -> None:
    """Connect the tab's buttons and keys to the handlers."""

    def updates(view: CompareView) -> Updates:
        return compare_updates(w, view)

    outputs = list(compare_outputs(w))
    inputs = [w.question, w.left_preset, w.right_preset, w.with_document, workspace_id]
    run = gr.on(
        [w.run.click, w.question.submit],
        streamed(handlers.run, updates),
        inputs,
        outputs,
        **POLLING,
    )
    w.stop.click(
        returned(handlers.stop, updates), workspace_id, outputs, cancels=[run], **AT_ONCE
    ).then(streamed(handlers.follow, updates), workspace_id, outputs, **POLLING)


def offer_document(
    tab: gr.Tab, w: CompareWidgets, handlers: CompareHandlers, workspace_id: gr.State
) -> None:
    """Look for a document each time the tab is opened."""

    def updates(view: CompareView) -> Updates:
        # a button that was updated before its tab was first opened comes up without its label
        return {**compare_updates(w, view), w.run: gr.update(value="Compare")}

    tab.select(
        returned(handlers.document_choice, updates),
        workspace_id,
        [w.with_document, w.run],
        **QUIET,
    )


def compare_outputs(w: CompareWidgets) -> tuple[gr.blocks.Block, ...]:
    """The widgets that a view may change."""
    return (w.run, w.stop, w.with_document, w.status, w.spoken, w.left, w.right, w.table)


def compare_updates(w: CompareWidgets, view: CompareView) -> Updates:
    """The view as Gradio takes it: only what is not None."""
    is_idle = None if view.is_busy is None else not view.is_busy
    return changes(
        (w.run, show_while(is_idle, value="Compare")),
        (w.stop, show_while(view.is_busy, value="Stop")),
        (w.with_document, _offer(view.document_label)),
        (w.status, view.status),
        (w.spoken, view.spoken),
        (w.left, view.left),
        (w.right, view.right),
        (w.table, view.table),
    )


def _offer(label: str | None) -> dict | None:
    if label is None:
        return None
    # a document that went away must not stay chosen
    return gr.update(label=label, visible=True) if label else gr.update(visible=False, value=False)
