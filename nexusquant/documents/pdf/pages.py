"""PDF files to documents, through a process that may hang or crash without harm.

Knows what the process says of pages, and goes on behind a page that ends it. Must not touch PDFium.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexusquant.documents.document import Document, Page, page_notes
from nexusquant.documents.page_ranges import format_page_ranges
from nexusquant.documents.worker import ReaderEndedError, Reading
from nexusquant.errors import DocumentError

BROKEN = (
    "The PDF is broken and cannot be opened. Check that it was copied or downloaded completely; "
    "saving it anew from another PDF reader often repairs it."
)

_READER = "nexusquant.documents.pdf.reader"
_MAX_PAGES = 10_000
_MAX_ENDINGS = 5


@dataclass
class _Pages:
    """What could be read: pages in order, those without text, those with errors."""

    pages: list[Page] = field(default_factory=list)
    empty_pages: list[int] = field(default_factory=list)
    broken_pages: list[int] = field(default_factory=list)
    nonsense_pages: list[int] = field(default_factory=list)
    partly_nonsense_pages: list[int] = field(default_factory=list)
    is_xfa: bool = False
    last_ending: str = ""

    def add(self, message: dict[str, Any]) -> None:
        """Take what is said of the next page."""
        number = len(self.pages) + 1
        text = message.get("text")
        is_broken = not isinstance(text, str)
        self.pages.append(Page(number, "" if is_broken else text))
        if is_broken:
            self.broken_pages.append(number)
        elif message.get("is_picture"):
            self.empty_pages.append(number)
        elif message.get("unreadable") == "page":
            self.nonsense_pages.append(number)
        elif message.get("unreadable") == "places":
            self.partly_nonsense_pages.append(number)

    def notes(self) -> tuple[str, ...]:
        """Say what a user should know of the pages."""
        notes = list(page_notes(self.empty_pages, self.broken_pages))
        for numbers, where in (
            (self.nonsense_pages, ""),
            (self.partly_nonsense_pages, " in places"),
        ):
            if numbers:
                which = _named(numbers, "reads", "read")
                notes.append(
                    f"{which} like nonsense{where}: the PDF does not say which letters its fonts "
                    "draw. Put it through a program that recognises text (OCR) and open what that "
                    "saves."
                )
        if self.is_xfa:
            notes.append(
                "The PDF holds a form of a kind (XFA) whose entries cannot be read. Print it to a "
                "new PDF from the program that shows it, and open that."
            )
        return tuple(notes)


def read_pdf(
    path: Path, name: str, sha256: str, password: str | None, reading: Reading
) -> Document:
    """Read every page that can be read.

    Raises:
        PasswordError: The file is locked and the password is missing or wrong.
        DocumentError: Not one page has text, too many pages, or the file is broken as a whole.
    """
    result = _Pages()
    num_pages = _read_from(1, path, password, result, reading)
    num_endings = 0
    while len(result.pages) < num_pages:
        # the process died or hung on the next page: note that page and go on behind it
        num_endings += 1
        last_broken = num_pages if num_endings > _MAX_ENDINGS else len(result.pages) + 1
        for number in range(len(result.pages) + 1, last_broken + 1):
            result.add({"number": number, "error": "the reader ended"})
        if last_broken < num_pages:
            _read_from(last_broken + 1, path, password, result, reading)
    _check_has_text(result)
    return Document(
        name=name,
        kind="pdf",
        pages=tuple(result.pages),
        sha256=sha256,
        empty_pages=tuple(result.empty_pages),
        broken_pages=tuple(result.broken_pages),
        notes=result.notes(),
    )


def _read_from(
    first: int, path: Path, password: str | None, result: _Pages, reading: Reading
) -> int:
    """Add the pages from `first` on, up to one that ends the process; returns their number."""
    request = {"path": str(path), "password": password, "first": first, "max_pages": _MAX_PAGES}
    num_pages = None
    try:
        for message in reading.messages(_READER, request):
            if num_pages is None:
                num_pages = _allowed(message.get("num_pages"))
                result.is_xfa = bool(message.get("is_xfa"))
            elif len(result.pages) < num_pages:
                result.add(message)
    except ReaderEndedError as error:
        if num_pages is None:
            raise DocumentError(BROKEN if error.why == "crashed" else str(error)) from error
        result.last_ending = error.why
    if num_pages is None:
        raise DocumentError(BROKEN)
    return num_pages


def _allowed(num_pages: object) -> int:
    if not isinstance(num_pages, int):
        raise DocumentError(BROKEN)
    if num_pages > _MAX_PAGES:
        raise DocumentError(
            f"The PDF has {num_pages} pages; up to {_MAX_PAGES} can be opened. "
            "Split it and open the part you need."
        )
    return num_pages


def _check_has_text(result: _Pages) -> None:
    if any(page.text for page in result.pages):
        return
    numbers = [page.number for page in result.pages]
    if not numbers:
        raise DocumentError("The PDF has no pages.")
    if result.broken_pages == numbers and result.last_ending in ("memory", "silent"):
        raise ReaderEndedError(result.last_ending)
    if result.broken_pages == numbers:
        raise DocumentError(
            "Not one page of the PDF could be read: the file is broken. Saving it anew from "
            "another PDF reader often repairs it."
        )
    which = _named(numbers, "has", "have")
    raise DocumentError(
        f"{which} no text: the PDF holds pictures of pages, as a scanner makes them, or blank "
        "pages. Put it through a program that recognises text (OCR) and open what that saves."
    )


def _named(numbers: Sequence[int], singular: str, plural: str) -> str:
    ranges = format_page_ranges(numbers)
    return f"Page {ranges} {singular}" if len(numbers) == 1 else f"Pages {ranges} {plural}"
