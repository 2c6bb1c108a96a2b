"""How handlers meet widgets. Knows Gradio's events; nothing of what the handlers do."""

from __future__ import annotations

import contextlib
import functools
import html
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import gradio as gr

from nexusquant.errors import NexusquantError
from ui.presenters import explain
from ui.sessions import NotYoursError

_LOG = logging.getLogger(__name__)

Updates = dict[Any, Any]

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Every event: no flicker over its outputs, no public endpoint."""

POLLING: dict[str, Any] = {**QUIET, "concurrency_limit": None}
"""Events that only watch a job: the engine's queue keeps order, not Gradio's."""

AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}
"""Events that must not wait behind others: Stop, the gauge."""


def streamed(handler: Callable[..., Iterator[Any]], to_updates: Callable[[Any], Updates]) -> Any:
    """A generator for Gradio out of a generator of views."""

    # `wraps` keeps the signature, by which Gradio knows where to put the request
    @functools.wraps(handler)
    def run(*args: Any) -> Iterator[Updates]:
        with _told():
            for view in handler(*args):
                yield to_updates(view)

    return run


def watched(
    handler: Callable[..., AsyncIterator[Any]], to_updates: Callable[[Any], Updates]
) -> Any:
    """A generator for Gradio out of one that waits between its views without holding a thread."""

    @functools.wraps(handler)
    async def run(*args: Any) -> AsyncIterator[Updates]:
        with _told():
            async for view in handler(*args):
                yield to_updates(view)

    return run


def returned(handler: Callable[..., Any], to_updates: Callable[[Any], Updates]) -> Any:
    """A function for Gradio out of a function that returns one view."""

    @functools.wraps(handler)
    def run(*args: Any) -> Updates:
        with _told():
            return to_updates(handler(*args))

    return run


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Whatever a handler raises reaches the person as a sentence, and the log as it is."""
    try:
        yield
    except gr.Error:
        raise
    except NotYoursError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        if not isinstance(error, NexusquantError):
            _LOG.exception("A handler failed")
        raise gr.Error(html.escape(explain(error)), print_exception=False) from error


def changes(*pairs: tuple[gr.blocks.Block, Any]) -> Updates:
    """The widgets whose new value is not None; Gradio wants one at least, which then stays."""
    updates = {widget: value for widget, value in pairs if value is not None}
    return updates or {pairs[0][0]: gr.skip()}


def show_while(is_shown: bool | None, **also: Any) -> Any:
    """An update of visibility, or None to leave it.

    A button needs its `value` along with it: Gradio forgets the label of one that is shown again
    on a tab opened later.
    """
    return None if is_shown is None else gr.update(visible=is_shown, **also)


def shown_with(label: str | None) -> Any:
    """An update of a button that is there while it has a label, or None to leave it."""
    # a hidden one keeps some label too: see above
    return None if label is None else gr.update(value=label or "...", visible=bool(label))
