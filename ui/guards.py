"""What every answer of the server carries, and whom it refuses. Knows HTTP; nothing of the app."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio builds functions from strings, hence eval; nothing may be fetched from anywhere else,
# so that an image in an answer cannot carry text out
CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SafeAnswers:
    """Adds the headers above, and refuses requests that another site's page sends.

    Args:
        app: What is served behind it.
        names: Host names this server goes by.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests on, and answers back with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if self._is_foreign(Headers(scope=scope)):
            answer = PlainTextResponse("This request came from another site.", status_code=403)
            await answer(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _is_foreign(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        return origin is not None and urlsplit(origin).hostname not in self._names
