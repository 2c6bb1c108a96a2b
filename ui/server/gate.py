"""The gate that every request goes through: names, origins, routes, logins, sessions, bodies.

Knows HTTP and the table of routes. Must not know what the page does. What it lets through has a
user, a session of that user and a body of plain values; the rest is answered here in one sentence.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.server.bodies import (
    MAX_JSON_BYTES,
    MAX_SMALL_BYTES,
    SESSION_HASH,
    RefusedError,
    checked_event,
    read_body,
    replay,
)
from ui.server.login import Logins
from ui.server.login_page import login_page
from ui.server.page_events import PageEvents, SessionOwners
from ui.server.routes import API, Access, Check, Route, RouteTable
from ui.server.security_headers import LOGIN_HEADERS
from ui.services import LOCAL_OWNER
from ui.state.uploads import UploadError, Uploads

MAX_EVENTS_PER_USER = 80
"""An open page has up to five."""

MAX_REQUESTS_PER_USER = 120
"""On their way at the same time; an open page keeps two for as long as it is open."""

BODY_S = 60.0
"""Seconds within which a body must have come."""

_UPLOAD = f"{API}/upload"
# what a proxy says about a request; anybody can write it
_FORWARDED = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-original-", b"x-gradio-")


@dataclass(frozen=True, kw_only=True)
class Guards:
    """What the gate asks.

    Args:
        names: Host names and addresses this server goes by.
        logins: Who is logged in; None where nobody has to.
        cookie: Name of the cookie that holds a login.
        events: What Gradio knows of the page's events.
        uploads: Whose uploads there are.
        trusts_proxy: Whether what a proxy says of a request was checked already.
    """

    names: Sequence[str]
    logins: Logins | None
    cookie: str
    events: PageEvents
    uploads: Uploads
    trusts_proxy: bool = False

    def user_of(self, headers: Headers) -> str | None:
        """Who sends this; None for a stranger."""
        if self.logins is None:
            return LOCAL_OWNER
        return self.logins.user_of(self.token_of(headers))

    def token_of(self, headers: Headers) -> str | None:
        """The login in the request's cookie."""
        return cookie_parser(headers.get("cookie", "")).get(self.cookie)


class Gate:
    """Lets through what the table of routes has, for those it has it for.

    Args:
        app: What is served behind it.
        guards: What is asked.
    """

    def __init__(self, app: ASGIApp, guards: Guards) -> None:
        self._app, self._guards = app, guards
        self._routes, self._sessions = RouteTable(), SessionOwners()
        self._names = frozenset(map(_normal, guards.names))
        self._on_their_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # nothing here speaks over web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            scope, route = self._checked(scope)
        except RefusedError as error:
            await _answer(error, scope, self._guards)(scope, receive, send)
            return
        # those that wait for their body count as well
        user = scope["state"]["user"] or _address(scope)
        self._on_their_way[user] += 1
        try:
            await self._pass_on(scope, route, receive, send)
        finally:
            self._on_their_way[user] -= 1
            if not self._on_their_way[user]:
                del self._on_their_way[user]

    async def _pass_on(self, scope: Scope, route: Route, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] == "POST" and route.path != _UPLOAD:
                user = scope["state"]["user"] or ""
                reading = self._with_body(scope, receive, route, user)
                scope, receive = await asyncio.wait_for(reading, BODY_S)
        except (RefusedError, asyncio.TimeoutError) as error:
            late = RefusedError(408, "The request took too long to arrive.")
            refused = error if isinstance(error, RefusedError) else late
            await _answer(refused, scope, self._guards)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _checked(self, scope: Scope) -> tuple[Scope, Route]:
        if not self._guards.trusts_proxy:
            kept = [pair for pair in scope["headers"] if not pair[0].startswith(_FORWARDED)]
            scope = {**scope, "headers": kept}
        headers = Headers(scope=scope)
        self._check_sender(scope, headers)
        route = self._routes.find(scope["method"], scope["path"])
        if route is None:
            raise _no_route(scope["path"])
        user = self._guards.user_of(headers)
        if user is None and route.access is not Access.OPEN:
            raise RefusedError(401, "Log in first.")
        if self._on_their_way[user or _address(scope)] >= MAX_REQUESTS_PER_USER:
            raise RefusedError(429, "Too many requests at once. Close some pages.")
        scope = {**scope, "state": {**scope.get("state", {}), "user": user}}
        if route.check in (Check.QUERY_SESSION, Check.PATH_SESSION):
            self._check_session(scope, route, user or "")
        return scope, route

    def _check_sender(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if _normal(_host_name(host)) not in self._names:
            raise RefusedError(400, "This server does not go by that name.")
        origin = headers.get("origin")
        is_foreign = origin is not None and origin.lower() != f"{scope['scheme']}://{host}".lower()
        site = headers.get("sec-fetch-site", "same-origin")
        is_visit = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if is_foreign or (site not in ("same-origin", "none") and not is_visit):
            raise RefusedError(403, "This request came from another site.")

    def _check_session(self, scope: Scope, route: Route, user: str) -> None:
        if route.check is Check.PATH_SESSION:
            session = scope["path"].rsplit("/", 1)[-1]
        else:
            # read as the app behind reads it
            session = QueryParams(scope["query_string"]).get("session_hash", "")
        if not SESSION_HASH.fullmatch(session):
            raise RefusedError(400, "The request names no session.")
        is_taken = (
            self._claim(session, user)
            if route.check is Check.PATH_SESSION
            else self._sessions.is_of(session, user)
        )
        if not is_taken:
            raise RefusedError(403, "This page belongs to somebody else.")

    async def _with_body(
        self, scope: Scope, receive: Receive, route: Route, user: str
    ) -> tuple[Scope, Receive]:
        is_event = route.check is Check.BODY
        body = await read_body(receive, MAX_JSON_BYTES if is_event else MAX_SMALL_BYTES)
        if is_event:
            body = self._event_body(body, route, user)
            length = str(len(body)).encode()
            kept = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
            scope = {**scope, "headers": [*kept, (b"content-length", length)]}
        return scope, replay(body, receive)

    def _event_body(self, body: bytes, route: Route, user: str) -> bytes:
        event = checked_event(body, lambda upload_id: self._own_upload(upload_id, user))
        session, gradio_name = event["session_hash"], self._gradio_name(user)
        events = self._guards.events
        if not self._claim(session, user):
            raise RefusedError(403, "This page belongs to somebody else.")
        if route.path.endswith("/cancel"):
            if not events.is_of(event.get("event_id", ""), gradio_name):
                raise RefusedError(403, "This belongs to somebody else.")
            return json.dumps(event).encode()
        event.pop("event_id", None)
        is_queued = route.path.endswith("/queue/join")
        num_values = len(event.get("data", ()))
        if not events.is_known(event["fn_index"], num_values, is_queued=is_queued):
            raise RefusedError(404, "This page has no such event. Load it again.")
        if is_queued and events.num_alive(gradio_name) >= MAX_EVENTS_PER_USER:
            raise RefusedError(429, "You have too many pages open here. Close some, then go on.")
        return json.dumps(event).encode()

    def _claim(self, session: str, user: str) -> bool:
        for dropped in self._sessions.drop_surplus(user):
            self._guards.events.forget(dropped)
        return self._sessions.claim(session, user)

    def _own_upload(self, upload_id: object, user: str) -> str:
        try:
            return self._guards.uploads.find(upload_id, user).id
        except UploadError as error:
            raise RefusedError(403, str(error)) from error

    def _gradio_name(self, user: str) -> str | None:
        return user if self._guards.logins is not None else None


def _address(scope: Scope) -> str:
    """Stands for a stranger; no name of a user looks like it."""
    return f"\n{(scope.get('client') or ('',))[0]}"


def _no_route(path: str) -> RefusedError:
    names_an_address = "://" in path or "%" in path or ":" in path
    if path.startswith(f"{API}/file") and names_an_address:
        return RefusedError(403, "Nothing is fetched from other places for a page.")
    return RefusedError(404, "There is nothing here.")


def _answer(error: RefusedError, scope: Scope, guards: Guards) -> Response:
    wants_page = "text/html" in Headers(scope=scope).get("accept", "")
    if error.status == 401 and wants_page and scope["path"] == "/" and guards.logins is not None:
        query = QueryParams(scope["query_string"])
        page = login_page(chat=query.get("chat", ""))
        return HTMLResponse(page, status_code=401, headers=LOGIN_HEADERS)
    return JSONResponse({"detail": error.text}, status_code=error.status)


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _normal(name: str) -> str:
    """One spelling for all: lower case, without a last dot, addresses in their shortest form."""
    name = name.lower().strip("[]").rstrip(".")
    try:
        return str(ip_address(name))
    except ValueError:
        return name
