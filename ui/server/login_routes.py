"""Where people log in and out. Knows HTTP, and asks who may enter; nothing of the page."""

from __future__ import annotations

from urllib.parse import parse_qs

import fastapi
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from ui.server.login import LOGIN_LASTS_S, Accounts, Logins, LoginThrottle
from ui.server.login_page import login_page, plain_chat_id
from ui.server.security_headers import LOGIN_HEADERS

MAX_NAME_LENGTH = 200
WRONG = "That name and password do not belong together."
LOCKED = "Too many wrong passwords. Try again in ten minutes."


def add_login_routes(
    app: fastapi.FastAPI, accounts: Accounts, logins: Logins, throttle: LoginThrottle, cookie: str
) -> None:
    """Serve login and logout from `app`.

    Args:
        app: Where to.
        accounts: Who may enter; empty where nobody has to log in.
        logins: Who has.
        throttle: How often one may try.
        cookie: Name of the cookie that holds a login.
    """

    async def show(request: fastapi.Request) -> Response:
        return _page() if accounts else RedirectResponse("/", status_code=303)

    async def enter(request: fastapi.Request) -> Response:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        name, password = _first(fields, "username").strip(), _first(fields, "password")
        chat = plain_chat_id(_first(fields, "chat"))
        wants_page = "text/html" in request.headers.get("accept", "")
        address = request.client.host if request.client else ""
        if len(name) > MAX_NAME_LENGTH:
            return _no(401, WRONG, name, chat, wants_page)
        if not await throttle.take_turn(address, name):
            return _no(429, LOCKED, name, chat, wants_page)
        if not await accounts.may_enter(name, password):
            return _no(401, WRONG, name, chat, wants_page)
        throttle.forgive(address, name)
        is_https = request.url.scheme == "https"
        return _with_login(_yes(chat, wants_page), cookie, logins.begin(name), is_https)

    async def leave(request: fastapi.Request) -> Response:
        logins.end(request.cookies.get(cookie))
        answer = RedirectResponse("/", status_code=303)
        answer.delete_cookie(cookie)
        return answer

    async def check(request: fastapi.Request) -> Response:
        is_in = not accounts or request.state.user is not None
        return JSONResponse({"logged_in": is_in}, status_code=200 if is_in else 401)

    async def health(request: fastapi.Request) -> Response:
        return JSONResponse({"status": "ok"})

    app.add_route("/login", show, methods=["GET"])
    app.add_route("/login", enter, methods=["POST"])
    app.add_route("/logout", leave, methods=["POST"])
    app.add_route("/login_check", check, methods=["GET"])
    app.add_route("/health", health, methods=["GET", "HEAD"])


def _first(fields: dict[str, list[str]], name: str) -> str:
    return fields.get(name, [""])[0]


def _yes(chat: str, wants_page: bool) -> Response:
    if wants_page:
        return RedirectResponse(f"/?chat={chat}" if chat else "/", status_code=303)
    return JSONResponse({"success": True})


def _with_login(answer: Response, cookie: str, token: str, is_https: bool) -> Response:
    answer.set_cookie(
        cookie,
        token,
        max_age=round(LOGIN_LASTS_S),
        httponly=True,
        samesite="lax",
        secure=is_https,
    )
    return answer


def _no(status: int, text: str, name: str, chat: str, wants_page: bool) -> Response:
    if wants_page:
        return _page(status, name=name, message=text, chat=chat)
    return JSONResponse({"detail": text}, status_code=status)


def _page(status: int = 200, **parts: str) -> HTMLResponse:
    return HTMLResponse(login_page(**parts), status_code=status, headers=LOGIN_HEADERS)
