"""Every route there is, and who may use it: a white list, and the list of what is left out.

Knows paths and methods. Must not know how a request is answered, or who somebody is. What stands
in neither list is not served, and a test fails as soon as Gradio brings such a route.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Access(str, Enum):
    """Who may use a route."""

    OPEN = "open"
    """Everyone who can reach the server."""
    USER = "user"
    """Who has logged in; everyone where there are no logins."""


class Check(str, Enum):
    """What is looked at before a request goes on."""

    NONE = "none"
    BODY = "body"
    """A JSON object that names a session; read, checked and written anew."""
    QUERY_SESSION = "query session"
    """A session in the query string."""
    PATH_SESSION = "path session"
    """A session at the end of the path."""


@dataclass(frozen=True)
class Route:
    """One way in.

    Args:
        methods: HTTP methods, such as "GET HEAD".
        path: As Starlette writes it; `{name}` stands for one part without a slash, `{name:path}`
            for any.
        access: Who may use it.
        check: What is looked at first.
    """

    methods: str
    path: str
    access: Access = Access.USER
    check: Check = Check.NONE


API = "/gradio_api"
SERVED: tuple[Route, ...] = (
    # ours
    Route("GET HEAD", "/health", Access.OPEN),
    Route("GET POST", "/login", Access.OPEN),
    Route("GET", "/login_check", Access.OPEN),
    Route("POST", "/logout"),
    Route("POST", f"{API}/upload"),
    Route("GET", f"{API}/upload_progress"),
    Route("GET HEAD", f"{API}/file={{upload_id}}"),
    # the page and its own files
    Route("GET HEAD", "/"),
    Route("GET", "/config"),
    Route("GET", "/theme.css"),
    Route("GET", "/favicon.ico"),
    Route("GET", "/manifest.json"),
    Route("GET", "/assets/{path:path}"),
    Route("GET", "/static/{path:path}"),
    # what the page's own script calls
    Route("GET", f"{API}/app_id"),
    Route("GET", f"{API}/info"),
    Route("GET", f"{API}/heartbeat/{{session_hash}}", check=Check.PATH_SESSION),
    Route("POST", f"{API}/queue/join", check=Check.BODY),
    Route("GET", f"{API}/queue/data", check=Check.QUERY_SESSION),
    Route("POST", f"{API}/run/{{api_name}}", check=Check.BODY),
    Route("POST", f"{API}/cancel", check=Check.BODY),
    Route("POST", f"{API}/reset"),
)

LEFT_OUT: tuple[str, ...] = (
    # they fetch addresses for a page, or name files of this computer
    f"{API}/proxy={{url_path:path}}",
    f"{API}/file={{path_or_url:path}}",
    f"{API}/file/{{path:path}}",
    f"{API}/custom_component/{{id}}/{{environment}}/{{type}}/{{file_name}}",
    f"{API}/component_server",
    f"{API}/component_server/",
    "/svelte/{path:path}",
    # other ways to call what /queue/join and /run call
    f"{API}/api/{{api_name}}",
    f"{API}/api/{{api_name}}/",
    f"{API}/run/{{api_name}}/",
    f"{API}/call/{{api_name}}",
    f"{API}/call/{{api_name}}/",
    f"{API}/call/{{api_name}}/{{event_id}}",
    f"{API}/call/v2/{{api_name}}",
    f"{API}/call/v2/{{api_name}}/",
    f"{API}/call/v2/{{api_name}}/{{event_id}}",
    f"{API}/queue/status",
    f"{API}/reset/",
    # they tell a token or a name; the page does not ask
    f"{API}/token",
    f"{API}/token/",
    f"{API}/user",
    f"{API}/user/",
    f"{API}/login_check",
    f"{API}/login_check/",
    "/login/",
    "/config/",
    f"{API}/app_id/",
    f"{API}/info/",
    f"{API}/openapi.json",
    f"{API}/startup-events",
    f"{API}/theme.css",
    # features that this page does not have
    f"{API}/dev/reload",
    f"{API}/deep_link",
    f"{API}/process_recording",
    f"{API}/runs",
    f"{API}/runs/",
    f"{API}/run-history/connect",
    f"{API}/run-history/buckets",
    f"{API}/run-history/records",
    f"{API}/run-history/records/{{endpoint}}/{{record_id}}/assets/{{asset_id}}",
    f"{API}/stream/{{event_id}}",
    f"{API}/stream/{{event_id}}/close",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist.m3u8",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist-file",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/{{segment_id}}.{{ext}}",
    f"{API}/vibe-edit",
    f"{API}/vibe-edit/",
    f"{API}/vibe-code",
    f"{API}/vibe-code/",
    f"{API}/vibe-starter-queries",
    f"{API}/vibe-starter-queries/",
    f"{API}/undo-vibe-edit",
    f"{API}/undo-vibe-edit/",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/{key}",
    "/pwa_icon",
    "/pwa_icon/{size}",
    "/robots.txt",
)

_PARAMETER = re.compile(r"\{\w+(:path)?\}")


class RouteTable:
    """Finds the route of a request.

    Args:
        routes: What is served.
    """

    def __init__(self, routes: tuple[Route, ...] = SERVED) -> None:
        self._routes = [
            (frozenset(route.methods.split()), _pattern(route.path), route) for route in routes
        ]

    def find(self, method: str, path: str) -> Route | None:
        """The route that answers; None where nothing does.

        Args:
            method: In capitals.
            path: Decoded once, as servers hand it on.
        """
        if is_suspicious(path):
            return None
        for methods, pattern, route in self._routes:
            if method in methods and pattern.fullmatch(path):
                return route
        return None


def is_suspicious(path: str) -> bool:
    """True for a path that climbs, has odd characters, or holds more coding than it should."""
    # a percent sign is left over only where somebody encoded twice
    parts = path.split("/")
    return ".." in parts or "." in parts or "//" in path or not _PLAIN.fullmatch(path)


_PLAIN = re.compile(r"[\w/.=@+,~() -]*")


def _pattern(path: str) -> re.Pattern[str]:
    pieces, end = [], 0
    for parameter in _PARAMETER.finditer(path):
        pieces.append(re.escape(path[end : parameter.start()]))
        pieces.append(".+" if parameter[1] else "[^/]+")
        end = parameter.end()
    return re.compile("".join(pieces) + re.escape(path[end:]))
