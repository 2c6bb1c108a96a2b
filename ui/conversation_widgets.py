"""Widgets that several tabs share: a list of messages, and a row to write the next one in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import gradio as gr

FORMULAS = (
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
)


def build_log(
    elem_id: str, label: str, height: str, placeholder: str, examples: Sequence[str] = ()
) -> gr.Chatbot:
    """Questions and answers as bubbles.

    Args:
        elem_id: Its id on the page.
        label: What a screen reader calls it.
        height: In CSS units.
        placeholder: Markdown shown while it is empty.
        examples: Questions that can be pressed while it is empty.
    """
    return gr.Chatbot(
        elem_id=elem_id,
        show_label=False,
        label=label,
        height=height,
        min_height=240,
        placeholder=placeholder,
        buttons=["copy", "copy_all"],
        feedback_options=None,
        layout="bubble",
        container=False,
        examples=[{"text": text} for text in examples] or None,
        latex_delimiters=list(FORMULAS),
    )


def build_box(elem_id: str, label: str, placeholder: str, *, autofocus: bool = False) -> gr.Textbox:
    """The field a person writes in; Enter sends."""
    return gr.Textbox(
        elem_id=elem_id,
        label=label,
        show_label=False,
        container=False,
        placeholder=placeholder,
        lines=1,
        max_lines=8,
        scale=8,
        min_width=200,
        autofocus=autofocus,
    )


def build_main_button(label: str, elem_id: str) -> gr.Button:
    """The one filled button of a screen."""
    return gr.Button(label, variant="primary", elem_id=elem_id, scale=1, min_width=110)


def build_stop_button(elem_id: str, *, size: Literal["sm", "lg"] = "lg") -> gr.Button:
    """Shown only while something runs; Esc presses it."""
    return gr.Button(
        "Stop",
        variant="stop",
        elem_id=elem_id,
        elem_classes="nq-stop",
        visible=False,
        size=size,
        scale=1,
        min_width=90,
    )


def build_offer_button(elem_id: str) -> gr.Button:
    """Shown only while there is something to offer; its label says what."""
    return gr.Button("", visible=False, size="sm", elem_id=elem_id, min_width=200)
