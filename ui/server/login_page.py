"""The page that asks for a name and a password. Knows HTML; needs no script and no other file."""

from __future__ import annotations

import html
import re

_CHAT_ID = re.compile(r"[A-Za-z0-9_-]{1,40}")
# a favicon of its own kind: nothing is fetched before somebody has logged in
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Nexusquant: log in</title>
<link rel="icon" href="data:,">
<style>
  :root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; }}
  form {{ width: min(22rem, calc(100vw - 3rem)); display: grid; gap: .9rem; }}
  h1 {{ font-size: 1.35rem; margin: 0; }}
  label {{ display: grid; gap: .25rem; font-size: .9rem; }}
  input, button {{ font: inherit; padding: .55rem .7rem; border-radius: .5rem; }}
  input {{ border: 1px solid GrayText; }}
  button {{ border: 0; background: #0f766e; color: #fff; cursor: pointer; }}
  p {{ margin: 0; font-size: .9rem; }}
  .wrong {{ color: #b3261e; font-weight: 600; }}
  @media (prefers-color-scheme: dark) {{ .wrong {{ color: #ffb4ab; }} }}
</style>
</head>
<body>
<form method="post" action="/login">
  <h1>Nexusquant</h1>
  <p>Chats and documents here are yours alone. Log in with the name and the password that the
  person at this computer gave you.</p>
  {message}
  <input type="hidden" name="chat" value="{chat}">
  <label>Name <input name="username" value="{name}" autocomplete="username" required
    {focus_name}></label>
  <label>Password <input name="password" type="password" autocomplete="current-password" required
    {focus_password}></label>
  <button>Log in</button>
</form>
</body>
</html>
"""


def login_page(*, name: str = "", message: str = "", chat: str = "") -> str:
    """The page as HTML.

    Args:
        name: What the name field holds: what was written there before.
        message: Why the last try did not work.
        chat: The chat that was asked for; it opens after the login.
    """
    shown = f'<p class="wrong" role="alert">{html.escape(message)}</p>' if message else ""
    return _PAGE.format(
        message=shown,
        name=html.escape(name[:200], quote=True),
        chat=plain_chat_id(chat),
        focus_name="" if name else "autofocus",
        focus_password="autofocus" if name else "",
    )


def plain_chat_id(chat: str) -> str:
    """The id of a chat out of an address, or nothing for what is none."""
    return chat if _CHAT_ID.fullmatch(chat) else ""
