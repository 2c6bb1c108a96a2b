"""The Chat tab: its widgets, and which handler each of them calls. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.chat_handlers import ChatHandlers, ChatView
from ui.conversation_widgets import (
    build_box,
    build_log,
    build_main_button,
    build_offer_button,
    build_stop_button,
)
from ui.own_html import own_html
from ui.preset_picker import PresetPicker, build_preset_picker
from ui.wiring import (
    AT_ONCE,
    POLLING,
    Updates,
    changes,
    returned,
    show_while,
    shown_with,
    streamed,
)

PLACEHOLDER = (
    '<div class="nq-empty"><h3>Ask anything</h3>'
    "The answer comes from the model on this computer. "
    "After each turn you see what it cost.</div>"
)
HINT = "Write a message"
EXAMPLES = (
    "Explain what a KV cache is in three sentences.",
    "Write a short poem about a lighthouse in fog.",
    "What is the difference between a list and a tuple in Python?",
)


@dataclass(frozen=True)
class ChatWidgets:
    """Everything in the tab that changes or is pressed."""

    log: gr.Chatbot
    status: gr.HTML
    offer: gr.Button
    spoken: gr.HTML
    figures: gr.HTML
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    regenerate: gr.Button
    clear: gr.Button
    gauge: gr.HTML
    picker: PresetPicker
    charts: gr.Accordion
    plot: gr.Plot
    table: gr.HTML


def build_chat_tab() -> ChatWidgets:
    """Lay the tab out; nothing is wired yet."""
    with gr.Row(elem_classes="nq-columns"):
        with gr.Column(scale=7, min_width=320, elem_classes="nq-main"):
            main = _build_conversation()
        with gr.Column(scale=3, min_width=300, elem_classes="nq-side"):
            side = _build_side()
    return ChatWidgets(**main, **side)


def _build_conversation() -> dict[str, Any]:
    log = build_log("chat-log", "Conversation", "min(58vh, 640px)", PLACEHOLDER, EXAMPLES)
    spoken = own_html("chat-spoken", "nq-unseen")
    status = own_html("chat-status")
    offer = build_offer_button("chat-offer")
    figures = own_html("chat-figures")
    with gr.Row(elem_classes="nq-ask"):
        box = build_box("chat-box", "Message", HINT, autofocus=True)
        send = build_main_button("Send", "chat-send")
        stop = build_stop_button("chat-stop")
    with gr.Row(elem_classes="nq-minor"):
        regenerate = gr.Button("Regenerate", size="sm", elem_id="chat-again", min_width=110)
        clear = gr.Button("New chat", size="sm", elem_id="chat-clear", min_width=110)
    return {
        "log": log,
        "status": status,
        "offer": offer,
        "spoken": spoken,
        "figures": figures,
        "box": box,
        "send": send,
        "stop": stop,
        "regenerate": regenerate,
        "clear": clear,
    }


def _build_side() -> dict[str, Any]:
    gauge = own_html("chat-gauge")
    picker = build_preset_picker("chat-preset")
    with gr.Accordion(
        "KV memory per turn", open=True, visible=False, elem_id="chat-chart"
    ) as charts:
        plot = gr.Plot(show_label=False, container=False, elem_id="chat-plot")
    with gr.Accordion("All figures", open=False, elem_id="chat-numbers"):
        table = own_html("chat-table")
    return {"gauge": gauge, "picker": picker, "charts": charts, "plot": plot, "table": table}


def wire_chat_tab(widgets: ChatWidgets, handlers: ChatHandlers, workspace_id: gr.State) -> None:
    """Connect the tab's buttons and keys to the handlers."""
    w = widgets

    def updates(view: ChatView) -> Updates:
        return chat_updates(w, view)

    outputs = list(chat_outputs(w))
    send = gr.on(
        [w.box.submit, w.send.click],
        streamed(handlers.send, updates),
        [w.box, workspace_id],
        outputs,
        **POLLING,
    )
    again = gr.on(
        [w.regenerate.click, w.log.retry],
        streamed(handlers.regenerate, updates),
        workspace_id,
        outputs,
        **POLLING,
    )
    taken = w.offer.click(streamed(handlers.take_offer, updates), workspace_id, outputs, **POLLING)
    example = w.log.example_select(_example_text, None, w.box, **AT_ONCE).then(
        streamed(handlers.send, updates), [w.box, workspace_id], outputs, **POLLING
    )
    w.stop.click(
        returned(handlers.stop, updates),
        workspace_id,
        outputs,
        cancels=[send, again, taken, example],
        **AT_ONCE,
    ).then(streamed(handlers.after_stop, updates), workspace_id, outputs, **POLLING)
    gr.on(
        [w.clear.click, w.log.clear],
        returned(handlers.clear, updates),
        workspace_id,
        outputs,
        cancels=[send, again, taken, example],
        **AT_ONCE,
    )


def chat_outputs(w: ChatWidgets) -> tuple[gr.blocks.Block, ...]:
    """The widgets that a view may change."""
    return (
        w.log,
        w.status,
        w.offer,
        w.spoken,
        w.figures,
        w.box,
        w.send,
        w.stop,
        w.gauge,
        w.charts,
        w.plot,
        w.table,
    )


def chat_updates(w: ChatWidgets, view: ChatView) -> Updates:
    """The view as Gradio takes it: only what is not None."""
    is_idle = None if view.is_busy is None else not view.is_busy
    return changes(
        (w.log, view.messages),
        (w.status, view.status),
        (w.offer, shown_with(view.offer)),
        (w.spoken, view.spoken),
        (w.figures, view.figures),
        (w.box, view.draft),
        (w.send, show_while(is_idle, value="Send")),
        (w.stop, show_while(view.is_busy, value="Stop")),
        (w.gauge, view.gauge),
        (w.charts, show_while(view.has_turns)),
        (w.plot, view.figure),
        (w.table, view.table),
    )


def _example_text(event: gr.SelectData) -> str:
    return event.value["text"]
