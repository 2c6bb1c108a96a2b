"""Reads a PDF with PDFium, page by page, inside the reader process.

PDFium is C++ and not safe to share between threads; a hostile or broken file may crash it. Must not
know torch or the engine, so that the process starts at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from nexusquant.documents.document import PasswordError
from nexusquant.documents.pdf.columns import Segment, column_text
from nexusquant.documents.pdf.pages import BROKEN
from nexusquant.documents.pdf.tidy import tidy_text
from nexusquant.errors import DocumentError

_MAX_CHARACTERS = 1_000_000
# a scan may carry a stamp or a page number as text
_MIN_VISIBLE = 20
# the line end that PDFium leaves out where it joins a hyphenated word is marked by U+FFFE
_WORD = re.compile("[^\\s\ufffe]+")
_LINE_END = re.compile("[\r\n\ufffe]")
# in heights of a line: a wider gap parts columns, a larger step down parts lines
_COLUMN_GAP = 1.0
_LINE_STEP = 0.5


def read(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield `{"num_pages"}`, then for each page from `request["first"]` on what is on it.

    Args:
        request: path, password (or None), first (1-based page number), max_pages.

    Yields:
        {"num_pages": n}, then one `_read_page` each, unless there are more than max_pages.

    Raises:
        PasswordError: The file is locked and the password is missing or wrong.
        DocumentError: The file is broken as a whole.
    """
    document = _open(request["path"], request["password"])
    num_pages = len(document)
    yield {"num_pages": num_pages}
    if num_pages <= request["max_pages"]:
        for number in range(request["first"], num_pages + 1):
            yield {"number": number, **_read_page(document, number - 1)}


def _open(path: str, password: str | None) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(path, password=password)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) != pdfium.FPDF_ERR_PASSWORD:
            raise DocumentError(BROKEN) from error
    if password is None:
        raise PasswordError("The PDF is locked. Enter its password to open it.")
    raise PasswordError("The password does not open the PDF. Check it and enter it again.")


def _read_page(document: pypdfium2.PdfDocument, index: int) -> dict[str, Any]:
    """Read one page.

    Returns:
        text, in reading order; is_picture: whether the page shows something but holds no text
        to speak of. Or error.
    """
    try:
        page = document[index]
        text_page = page.get_textpage()
        if text_page.count_chars() > _MAX_CHARACTERS:
            return {"error": "too many characters"}
        text = text_page.get_text_range()
        tidied = tidy_text(column_text(_segments(text_page, text)) or text)
        is_picture = _is_picture(page, num_visible=len("".join(text.split())))
    except pypdfium2.PdfiumError as error:
        return {"error": str(error)}
    return {"text": tidied, "is_picture": is_picture}


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


def _segments(text_page: pypdfium2.PdfTextPage, text: str) -> list[Segment]:
    indices = _character_indices(text_page, text)
    segments: list[list[float]] = []
    first, last = pdfium.FS_RECTF(), pdfium.FS_RECTF()
    end = 0
    for word in _WORD.finditer(text):
        gap, (start, end) = text[end : word.start()], word.span()
        if not (
            pdfium.FPDFText_GetLooseCharBox(text_page, indices[start], first)
            and pdfium.FPDFText_GetLooseCharBox(text_page, indices[end - 1], last)
        ):
            continue
        # a single blank is the usual case and quicker to see
        is_same_line = gap == " " or not _LINE_END.search(gap)
        if segments and is_same_line and _continues(segments[-1], first):
            segments[-1][1], segments[-1][4] = end, last.right
        else:
            segments.append([start, end, first.left, first.bottom, last.right, first.top])
    return [Segment(text[int(s) : int(e)], *edges) for s, e, *edges in segments]


def _character_indices(text_page: pypdfium2.PdfTextPage, text: str) -> Sequence[int]:
    """Find PDFium's number for each character of the text; they part where some are left out."""
    if text_page.count_chars() == len(text):
        return range(len(text))
    find = pdfium.FPDFText_GetCharIndexFromTextIndex
    return [find(text_page, position) for position in range(len(text))]


def _continues(segment: list[float], box: pdfium.FS_RECTF) -> bool:
    _, _, _, bottom, right, top = segment
    height = max(top - bottom, 1.0)
    is_level = abs(box.bottom - bottom) < _LINE_STEP * height
    return is_level and -height < box.left - right < _COLUMN_GAP * height
