"""Who is logged in, and the button that logs out. Knows widgets; nothing of passwords."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.own_html import heading, own_html
from ui.presenters import escape
from ui.wiring import AT_ONCE, Updates

# a link would let any page log people out
LOG_OUT_JS = "() => { fetch('/logout', {method: 'POST'}).finally(() => location.replace('/')); }"


@dataclass(frozen=True)
class LoginWidgets:
    """Everything in the part that changes."""

    part: gr.Column
    who: gr.HTML


def build_login_part() -> LoginWidgets:
    """Lay the part out; it is hidden where nobody has to log in."""
    with gr.Column(visible=False) as part:
        heading("Login")
        who = own_html("set-login")
        leave = gr.Button("Log out", size="sm", elem_id="set-log-out", min_width=110)
    leave.click(None, None, None, js=LOG_OUT_JS, **AT_ONCE)
    return LoginWidgets(part, who)


def login_updates(w: LoginWidgets, name: str | None) -> Updates:
    """Show who is logged in; None where nobody has to."""
    if name is None:
        return {w.part: gr.skip()}
    told = f"<p class='nq-under'>You are logged in as {escape(name)}.</p>"
    return {w.part: gr.update(visible=True), w.who: told}
