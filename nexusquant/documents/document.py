"""What a file has become: pages of text with their numbers. Knows no file format and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexusquant.documents.page_ranges import format_page_ranges
from nexusquant.errors import DocumentError


class PasswordError(DocumentError):
    """The PDF is locked, and no password or a wrong one was given: ask for it and try again."""


@dataclass(frozen=True)
class Page:
    """One page of a document.

    Args:
        number: Counted from 1, as a PDF reader does.
        text: What it says.
        first_line: The line of the file, counted from 1, in which the page begins; None if the
            file has no lines, as PDFs, or others than the text, as web pages.
    """

    number: int
    text: str
    first_line: int | None = None


@dataclass(frozen=True)
class Document:
    """A file as text.

    Args:
        name: File name, for showing.
        kind: "pdf", "text", "markdown" or "code".
        pages: In order; a page without text is there with an empty text.
        sha256: Of the file, in hex.
        empty_pages: Numbers of pages that show something but hold no text, as scans do.
        broken_pages: Numbers of pages that could not be read.
        notes: Sentences for the user on what could not be read, or may be read wrongly; empty if
            all is well.
    """

    name: str
    kind: str
    pages: tuple[Page, ...]
    sha256: str
    empty_pages: tuple[int, ...] = ()
    broken_pages: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def page_notes(empty_pages: Sequence[int], broken_pages: Sequence[int]) -> tuple[str, ...]:
    """Say in sentences which pages hold no text and which could not be read."""
    notes = []
    if empty_pages:
        notes.append(
            f"{_subject(empty_pages)} no text, only pictures (a scan?), and will be "
            "missing from the answers. The rest was read."
        )
    if broken_pages:
        notes.append(
            f"{_subject(broken_pages)} errors in the file and could not be read; "
            "the rest was read. Saving the PDF anew from another reader often repairs it."
        )
    return tuple(notes)


def _subject(numbers: Sequence[int]) -> str:
    ranges = format_page_ranges(numbers)
    return f"Page {ranges} has" if len(numbers) == 1 else f"Pages {ranges} have"
