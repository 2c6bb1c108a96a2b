"""A message has a most, on every tab, and is told so without being lost."""

from __future__ import annotations

import pytest

from ui.chat_handlers import ChatHandlers
from ui.compare_handlers import CompareHandlers
from ui.document_handlers import DocumentHandlers
from ui.state.fields import MAX_MESSAGE_CHARACTERS, message_of

LONG = "word " * (MAX_MESSAGE_CHARACTERS // 5 + 1)


@pytest.mark.parametrize("tab", ["chat", "documents", "compare"])
def test_a_message_that_is_too_long_is_refused_and_stays_in_the_input(
    tab, services, workspace, engine, me
):
    views = {
        "chat": lambda: ChatHandlers(services).send(LONG, workspace.id, me),
        "documents": lambda: DocumentHandlers(services).ask(LONG, workspace.id, me),
        "compare": lambda: CompareHandlers(services).run(
            LONG, "off", "max", False, workspace.id, me
        ),
    }[tab]()
    (view,) = list(views)
    assert "at most" in view.status
    # None leaves what is written where it is
    assert getattr(view, "draft", None) is None
    assert engine.prompts == []


@pytest.mark.parametrize("odd", [None, 7, [], {}, True, "", "  \n"])
def test_what_is_no_text_is_no_message(odd):
    assert message_of(odd) == ""


def test_blanks_around_a_message_do_not_count():
    assert message_of("  a b \n") == "a b"
