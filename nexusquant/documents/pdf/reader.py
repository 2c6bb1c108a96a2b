"""Reads a PDF with PDFium, page by page, inside the reader process.

PDFium is C++ and not safe to share between threads; a hostile or broken file may crash it. Must not
know torch or the engine, so that the process starts at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from nexusquant.documents.document import PasswordError
from nexusquant.documents.pdf.columns import Row, column_rows, places
from nexusquant.documents.pdf.fields import insets_of, stateless_positions
from nexusquant.documents.pdf.insets import place
from nexusquant.documents.pdf.layout import Word, join_words, segments_of
from nexusquant.documents.pdf.nonsense import unreadable_part
from nexusquant.documents.pdf.pages import BROKEN
from nexusquant.documents.pdf.pdfium import quarters_to_upright, words_of
from nexusquant.documents.pdf.tidy import tidy_text
from nexusquant.errors import DocumentError

_MAX_CHARACTERS = 1_000_000
# a scan may carry a stamp or a page number as text
_MIN_VISIBLE = 20


def read(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is on each page from `request["first"]` on.

    Args:
        request: path, password (or None), first (1-based page number), max_pages.

    Yields:
        {"num_pages": n, "is_xfa": bool}, then, unless there are more than max_pages, for each page
        {"number", "text", "is_picture", "unreadable"} or {"number", "error"}.

    Raises:
        PasswordError: The file is locked and the password is missing or wrong.
        DocumentError: The file is broken as a whole.
    """
    document = _open(request["path"], request["password"])
    num_pages = len(document)
    is_xfa = document.get_formtype() == pdfium.FORMTYPE_XFA_FULL
    yield {"num_pages": num_pages, "is_xfa": is_xfa}
    if num_pages > request["max_pages"]:
        return
    for number in range(request["first"], num_pages + 1):
        try:
            yield {"number": number, **_read_page(document, number - 1)}
        except pypdfium2.PdfiumError as error:
            yield {"number": number, "error": str(error)}


def _open(path: str, password: str | None) -> pypdfium2.PdfDocument:
    # half a character, as a browser may send, opens nothing and cannot be handed to PDFium
    given = password and password.encode("utf-8", "replace").decode()
    try:
        document = pypdfium2.PdfDocument(path, password=given)
        # without it PDFium knows no fields, and draws none that nobody has drawn yet
        document.init_forms()
        return document
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) != pdfium.FPDF_ERR_PASSWORD:
            raise DocumentError(BROKEN) from error
    if password is None:
        raise PasswordError("The PDF is locked. Enter its password to open it.")
    raise PasswordError("The password does not open the PDF. Check it and enter it again.")


def _read_page(document: pypdfium2.PdfDocument, index: int) -> dict[str, Any]:
    """Read one page.

    Returns:
        text, in reading order; is_picture: whether the page shows something but holds no text to
        speak of; unreadable: how much is drawn by fonts that name no letters. Or error.
    """
    page = _plain_page(document, index)
    text_page = page.get_textpage()
    if text_page.count_chars() > _MAX_CHARACTERS:
        return {"error": "too many characters"}
    quarters = quarters_to_upright(text_page)
    if quarters * 90 != page.get_rotation():
        # PDFium puts lines in the order in which the turned page shows them
        page.set_rotation(quarters * 90)
        text_page = page.get_textpage()
    words = words_of(text_page, quarters)
    unreadable = unreadable_part(text_page)
    is_picture = _is_picture(page, num_visible=sum(len(word.text) for word in words))
    stateless = stateless_positions(page)
    page.close()
    ordered, gutters = _in_reading_order(words)
    insets = insets_of(document, index, quarters, stateless) if stateless is not None else []
    text = tidy_text(join_words(place(ordered, insets, gutters)))
    is_picture = is_picture and not insets
    return {"text": text, "is_picture": is_picture, "unreadable": unreadable}


def _plain_page(document: pypdfium2.PdfDocument, index: int) -> pypdfium2.PdfPage:
    """Load a page as it is in the file: with its form, PDFium would add to it."""
    form, document.formenv = document.formenv, None
    try:
        return document[index]
    finally:
        document.formenv = form


def _in_reading_order(words: list[Word]) -> tuple[list[Word], list[float]]:
    """Return the words column by column, and the gaps between columns."""
    found = column_rows(segments_of(words))
    if found is None:
        return words, []
    rows, gutter = found
    return [word for row in rows for word in _row_words(row)], places(gutter)


def _row_words(row: Row) -> Iterator[Word]:
    for segment in row:
        yield from segment.words[:-1]
        last = segment.words[-1]
        yield Word(last.text, last.box, "\n" if segment is row[-1] else " ")


def _is_picture(page: pypdfium2.PdfPage, num_visible: int) -> bool:
    if num_visible >= _MIN_VISIBLE:
        return False
    if num_visible == 0:
        return next(page.get_objects(), None) is not None
    width, height = page.get_size()
    images = page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE])
    return any(_area(image.get_bounds()) > width * height / 2 for image in images)


def _area(bounds: tuple[float, float, float, float]) -> float:
    left, bottom, right, top = bounds
    return (right - left) * (top - bottom)
