"""The prompt of a question about a document: a part to read once and a part per question.

Knows the wording and the page marks. Must not know how text becomes tokens or keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from nexusquant.documents.document import Page
from nexusquant.engine import Engine, Message, thought_closing
from nexusquant.errors import DocumentError

ANSWER_LEAD = "According to page"
"""How every answer begins: the model goes on with a page number, which small models forget."""

# short, and the question last: small models lose the thread of anything longer
_INTRODUCTION = (
    "Answer the question below this document from the document. "
    "Every page begins with its number.\n\n"
)
_QUESTION = "\n\nQuestion: "
# stands for the message while its surroundings are asked for; digits, which no template alters
_CONTENT = "5820417396"
# what reads like a page mark: in plain or fullwidth letters, with or without signs between them
_SIGNS = r"(?:[^\w\[\]［］【】⟦⟧]|_)*"
_PAGE = _SIGNS.join(f"[{letter}{chr(ord(letter) + 0xFEE0)}]" for letter in "page")
_FORGED_MARK = re.compile(
    rf"[\[［【⟦](?P<words>{_SIGNS}{_PAGE}{_SIGNS}\d+{_SIGNS})[\]］】⟧]", re.IGNORECASE
)


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
        end: What follows a question, up to and with `ANSWER_LEAD`.
    """

    prefix: str
    spans: tuple[PageSpan, ...]
    end: str

    def suffix(self, engine: Engine, question: str) -> str:
        """Write what follows the prefix: the question and `end`.

        `prefix + suffix` is what the chat template makes of document and question, up to where the
        answer begins, and then the lead. A thought that the template opens is closed before it.
        """
        return _QUESTION + engine.harmless(question.strip(), _QUESTION, self.end) + self.end


def build_prompt(
    engine: Engine, pages: Sequence[Page], moment: datetime | None = None
) -> DocumentPrompt:
    """Put pages into a prompt; pages without text are left out.

    Args:
        engine: With a loaded model.
        pages: What is to be read.
        moment: What a chat template that prints date or time prints; None: now.

    Raises:
        DocumentError: No page has text, or the model's chat template alters the document.
    """
    texts = [(page.number, page_text(engine, page)) for page in pages]
    blocks = [(number, f"{page_mark(number)}{text}\n") for number, text in texts if text]
    if not blocks:
        raise DocumentError("The chosen pages have no text. Choose others.")
    start, end = _frame(engine, moment)
    document_text = "".join(text for _, text in blocks).rstrip()
    prefix = start + document_text
    return DocumentPrompt(prefix, tuple(_spans(blocks, len(start), len(prefix))), end)


def page_mark(number: int) -> str:
    """Write the line that stands over a page in the prompt."""
    return f"[page {number}]\n"


def page_text(engine: Engine, page: Page) -> str:
    """Write a page's text as it stands in the prompt; empty for a page without text.

    It holds no page mark and no control token of the model.
    """
    text = _FORGED_MARK.sub(r"(\g<words>)", page.text).strip()
    return engine.harmless(text, page_mark(page.number), "\n") if text else ""


def frame_text(engine: Engine) -> str:
    """Write a prompt without pages and question: what every prompt needs besides them."""
    start, end = _frame(engine, None)
    return start + _QUESTION + end


def _spans(blocks: Sequence[tuple[int, str]], start: int, end: int) -> Iterator[PageSpan]:
    for number, text in blocks:
        yield PageSpan(number, start, min(start + len(text), end))
        start += len(text)


def _frame(engine: Engine, moment: datetime | None) -> tuple[str, str]:
    """Write what stands before the first page, and what follows the question."""
    # one user message: some chat templates have no system role
    message = Message("user", _CONTENT)
    written = engine.render([message], add_generation_prompt=True, moment=moment)
    before, *after = written.split(_CONTENT)
    if len(after) != 1:
        raise DocumentError("This model's chat template alters the document. Choose another model.")
    return before + _INTRODUCTION, after[0] + thought_closing(after[0]) + ANSWER_LEAD
