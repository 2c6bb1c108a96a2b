"""A field for a file, whose value is the id of an upload and never a path.

Knows Gradio's file field. Must not know where uploads lie.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

class UploadField(gr.File):
    """Looks like `gr.File`; a handler is given the id that the server gave to the upload.

    Gradio's own field hands on a path that the browser names. The gate in front of the page turns
    the browser's value into an id, after looking whose it is; this field takes no other.
    """

    is_template = True

    def __init__(self, label: str, *, elem_id: str, height: int) -> None:
        super().__init__(label=label, elem_id=elem_id, height=height)
        # without a model of its data, Gradio looks for no file behind the value
        self.data_model = None

    def preprocess(self, payload: Any) -> str | None:
        """The id of the upload, or None for an empty field."""
        return payload if isinstance(payload, str) else None

    def api_info(self) -> dict[str, Any]:
        """What the value is, for Gradio's list of events."""
        return {"type": "string", "description": "id of an upload"}

    def example_payload(self) -> str:
        """An id as it may look."""
        return "u_example"

    def example_value(self) -> None:
        """No file."""
        return None
    from collections.abc import Callable, Sequence
    from typing import TYPE_CHECKING, Any, Literal

    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component
