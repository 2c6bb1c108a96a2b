"""The server around the page. Its one public name imports nothing heavy until it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ui.options import Options


def serve(options: Options) -> int:
    """Serve the page until the program is stopped; see `ui.server.server.serve`."""
    # gradio and torch read the environment as they are imported, so only now
    from ui.server.server import serve as serve_page

    return serve_page(options)
