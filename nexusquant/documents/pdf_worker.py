"""The process that opens a PDF: one line of JSON in, one line of JSON out per page.

PDFium is C++ and not safe to share between threads; a hostile or broken file may crash it, so it
lives in a process of its own. This file is started by its path and imports nothing of the package:
it must know neither torch nor the engine, so that it starts at once.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import pypdfium2
import pypdfium2.raw as pdfium

_MAX_CHARACTERS = 1_000_000
# a scan may carry a stamp or a page number as text
_MIN_VISIBLE = 20
_MEMORY_LIMIT = 4 * 1024**3
# the line end that PDFium leaves out where it joins a hyphenated word is marked by U+FFFE
_WORD = re.compile("[^\\s\ufffe]+")
_LINE_END = re.compile("[\r\n\ufffe]")
# in heights of a line: a wider gap parts columns, a larger step down parts lines
_COLUMN_GAP = 1.0
_LINE_STEP = 0.5


def run(request: dict[str, Any], output: TextIO) -> None:
    """Write `{"num_pages"}`, then for each page from `request["first"]` on what is on it.

    Args:
        request: path, password (or None), first (1-based page number), max_pages.
        output: Receives JSON lines: {"num_pages": n}, then one `_read_page` each, or a single
            {"refused": why} with why one of "password", "broken", "pages".
    """
    try:
        document = pypdfium2.PdfDocument(request["path"], password=request["password"])
        num_pages = len(document)
    except pypdfium2.PdfiumError as error:
        needs_password = getattr(error, "err_code", None) == pdfium.FPDF_ERR_PASSWORD
        _send(output, {"refused": "password" if needs_password else "broken"})
        return
    _send(output, {"num_pages": num_pages})
    if num_pages <= request["max_pages"]:
        for number in range(request["first"], num_pages + 1):
            _send(output, {"number": number, **_read_page(document, number - 1)})


def _send(output: TextIO, message: dict[str, Any]) -> None:
    output.write(json.dumps(message) + "\n")
    output.flush()


def _read_page(document: pypdfium2.PdfDocument, index: int) -> dict[str, Any]:
    """Read one page.

    Returns:
        text, as PDFium orders it; segments as (start, end, left, bottom, right, top), pieces of
        lines in the order of the text, in points; is_picture: whether the page shows something
        but holds no text to speak of. Or error.
    """
    try:
        page = document[index]
        text_page = page.get_textpage()
        if text_page.count_chars() > _MAX_CHARACTERS:
            return {"error": "too many characters"}
        text = text_page.get_text_range()
        segments = _segments(text_page, text)
        is_picture = _is_picture(page, num_visible=len("".join(text.split())))
    except pypdfium2.PdfiumError as error:
        return {"error": str(error)}
    return {"text": text, "segments": segments, "is_picture": is_picture}


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


def _segments(text_page: pypdfium2.PdfTextPage, text: str) -> list[list[float]]:
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
    return [[round(value, 1) for value in segment] for segment in segments]


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


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        # Windows has no such limit; the time limit of the parent remains
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))


if __name__ == "__main__":
    _limit_memory()
    run(json.loads(sys.stdin.readline()), sys.stdout)
