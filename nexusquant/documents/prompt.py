"""The prompt of a question about a document: a part to read once and a part per question.

Knows the wording and the page marks. Must not know how text becomes tokens or keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nexusquant.documents.document import Page
from nexusquant.engine import Engine, Message
from nexusquant.errors import DocumentError

ANSWER_LEAD = "According to page"
"""How every answer begins: the model goes on with a page number, which small models forget."""

# short, and the question last: small models lose the thread of anything longer
_INTRODUCTION = (
    "Answer the question below this document from the document. "
    "Every page begins with its number.\n\n"
)
_QUESTION = "\n\nQuestion: "
# text that the tokenizers of many chat models take for the end of a turn
_CONTROL_TOKEN = re.compile(r"<\|([\w-]+)\|>")


@dataclass(frozen=True)
class PageSpan:
    """Where a page, its mark included, stands in the prefix: characters [start, end)."""

    number: int
    start: int
    end: int


@dataclass(frozen=True)
class DocumentPrompt:
    """A rendered prompt, cut where the document ends.

    Args:
        prefix: The same for every question, so that its cache can be used again.
        spans: The pages in it, in order.
        document_text: All marked pages.
    """

    prefix: str
    spans: tuple[PageSpan, ...]
    document_text: str

    def suffix(self, engine: Engine, question: str) -> str:
        """Write what follows the prefix: the question and `ANSWER_LEAD`.

        `prefix + suffix` is exactly what the chat template makes of document and question, up to
        where the answer begins, and then the lead.

        Raises:
            DocumentError: The model's chat template puts the question before the document.
        """
        rendered = _render(engine, self.document_text, question)
        if not rendered.startswith(self.prefix):
            raise DocumentError(
                "This model's chat template puts the question before the document, so that it "
                "would be read anew for every question. Choose another model."
            )
        return rendered[len(self.prefix) :] + ANSWER_LEAD


def build_prompt(engine: Engine, pages: Sequence[Page]) -> DocumentPrompt:
    """Put pages into a prompt; pages without text are left out.

    Raises:
        DocumentError: No page has text, or the model's chat template alters the document.
    """
    texts = [(page.number, page_text(page)) for page in pages]
    blocks = [(number, f"{page_mark(number)}{text}\n") for number, text in texts if text]
    if not blocks:
        raise DocumentError("The chosen pages have no text. Choose others.")
    document_text = "".join(text for _, text in blocks).rstrip()
    rendered = _render(engine, document_text, "")
    start = rendered.find(document_text)
    if start < 0:
        raise DocumentError("This model's chat template alters the document. Choose another model.")
    end = start + len(document_text)
    return DocumentPrompt(rendered[:end], tuple(_spans(blocks, start, end)), document_text)


def page_mark(number: int) -> str:
    """Write the line that stands over a page in the prompt."""
    return f"[page {number}]\n"


def page_text(page: Page) -> str:
    """Write a page's text as it stands in the prompt; empty for a page without text."""
    return _defuse(page.text).strip()


def frame_text(engine: Engine) -> str:
    """Write a prompt without pages and question: what every prompt needs besides them."""
    return _render(engine, "", "") + ANSWER_LEAD


def _spans(blocks: Sequence[tuple[int, str]], start: int, end: int) -> Iterator[PageSpan]:
    for number, text in blocks:
        yield PageSpan(number, start, min(start + len(text), end))
        start += len(text)


def _render(engine: Engine, document_text: str, question: str) -> str:
    # one user message: some chat templates have no system role
    content = _INTRODUCTION + document_text + _QUESTION + _defuse(question).strip()
    return engine.render([Message("user", content)], add_generation_prompt=True)


def _defuse(text: str) -> str:
    return _CONTROL_TOKEN.sub(r"<| \1 |>", text)
