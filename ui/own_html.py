"""The one kind of HTML widget the page uses: flush with its neighbours, absent while empty."""

from __future__ import annotations

from typing import Any

import gradio as gr


def own_html(elem_id: str, *classes: str, value: str = "", script: str | None = None) -> gr.HTML:
    """An HTML widget that style.css lays out alone.

    Args:
        elem_id: Its id on the page.
        classes: Further classes, such as "nq-unseen" for what only screen readers meet.
        value: What it shows at first; the outermost element needs a class that begins with "nq-".
        script: JavaScript run when it appears.
    """
    more: dict[str, Any] = {} if script is None else {"js_on_load": script}
    return gr.HTML(
        value, elem_id=elem_id, elem_classes=["nq-html", *classes], apply_default_css=False, **more
    )


def heading(text: str) -> gr.HTML:
    """The title of a part of a tab."""
    name = text.lower().replace(" ", "-")
    return own_html(f"title-{name}", value=f'<h2 class="nq-title">{text}</h2>')
