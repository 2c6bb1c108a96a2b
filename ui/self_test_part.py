"""The part of Settings about the presets on this model: widgets and wiring. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.own_html import heading, own_html
from ui.self_test_handlers import FIRST, SelfTestHandlers, SelfTestView
from ui.wiring import AT_ONCE, Updates, returned, show_while


@dataclass(frozen=True)
class SelfTestWidgets:
    """Everything in the part that changes or is pressed."""

    table: gr.HTML
    status: gr.HTML
    start: gr.Button
    stop: gr.Button


def build_self_test_part() -> SelfTestWidgets:
    """Lay the part out; nothing is wired yet."""
    heading("Presets on this model")
    table = own_html("set-presets")
    status = own_html("set-test-status")
    with gr.Row(elem_classes="nq-minor"):
        start = gr.Button(FIRST, visible=False, size="sm", elem_id="set-test", min_width=240)
        stop = gr.Button(
            "Stop the test", visible=False, size="sm", elem_id="set-stop-test", min_width=110
        )
    return SelfTestWidgets(table, status, start, stop)


def wire_self_test_part(w: SelfTestWidgets, handlers: SelfTestHandlers) -> None:
    """Connect the buttons; what the test finds is shown by the page's watch."""
    outputs = self_test_outputs(w)

    def updates(view: SelfTestView) -> Updates:
        return self_test_updates(w, view)

    w.start.click(returned(handlers.start_test, updates), None, outputs, **AT_ONCE)
    w.stop.click(returned(handlers.stop_test, updates), None, outputs, **AT_ONCE)


def self_test_outputs(w: SelfTestWidgets) -> list[gr.blocks.Block]:
    """The widgets that a view changes."""
    return [w.table, w.status, w.start, w.stop]


def self_test_updates(w: SelfTestWidgets, view: SelfTestView) -> Updates:
    """The view as Gradio takes it."""
    return {
        w.table: view.table,
        w.status: view.status,
        w.start: show_while(view.can_start, value=view.start_label),
        w.stop: show_while(view.can_stop, value="Stop the test"),
    }
