"""What PDFium's text pages and strings are as Python values. Knows PDFium's calls, no layout."""

from __future__ import annotations

import ctypes
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from nexusquant.documents.pdf.layout import Box, Word

# the line end that PDFium leaves out where it joins a hyphenated word is marked by U+FFFE
_WORD = re.compile("[^\\s\ufffe]+")
_HYPHEN_MARK = "\ufffe"
_MAX_STRING_BYTES = 8_000_000
_NUM_SAMPLES = 400


def string(call: Callable[..., int], *arguments: Any) -> str:
    """Ask one of PDFium's functions for a string of unknown length."""
    num_bytes = call(*arguments, None, 0)
    if not 2 < num_bytes <= _MAX_STRING_BYTES:
        return ""
    buffer = ctypes.create_string_buffer(num_bytes)
    call(*arguments, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), num_bytes)
    return buffer.raw[: num_bytes - 2].decode("utf-16-le", "replace")


def address(handle: Any) -> int:
    """Return what tells one object of PDFium from another; 0 for none."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def words_of(text_page: pypdfium2.PdfTextPage, quarters: int) -> list[Word]:
    """List the words of a page in PDFium's order.

    Args:
        text_page: The page's text.
        quarters: Clockwise right angles after which the text stands upright.
    """
    text = text_page.get_text_range()
    indices = _character_indices(text_page, text)
    matches = list(_WORD.finditer(text))
    next_starts = [*(match.start() for match in matches[1:]), len(text)][: len(matches)]
    words = []
    for match, next_start in zip(matches, next_starts, strict=True):
        start, end = match.span()
        gap = text[end:next_start]
        box = _box(text_page, indices[start], indices[end - 1], quarters)
        hyphen = "-" if _HYPHEN_MARK in gap else ""
        words.append(Word(match[0] + hyphen, box, "\n" if hyphen else _plain(gap)))
    return words


def _plain(gap: str) -> str:
    # a single blank is the usual case
    return gap if gap == " " else gap.replace("\r\n", "\n").replace("\r", "\n")


def _box(text_page: pypdfium2.PdfTextPage, first: int, last: int, quarters: int) -> Box:
    start, end = pdfium.FS_RECTF(), pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(text_page, first, start)
    pdfium.FPDFText_GetLooseCharBox(text_page, last, end)
    first_box = Box(start.left, start.bottom, start.right, start.top).turned(quarters)
    last_box = Box(end.left, end.bottom, end.right, end.top).turned(quarters)
    return Box(first_box.left, first_box.bottom, last_box.right, first_box.top)


def _character_indices(text_page: pypdfium2.PdfTextPage, text: str) -> Sequence[int]:
    """Find PDFium's number for each character of the text; they part where some are left out."""
    if text_page.count_chars() == len(text):
        return range(len(text))
    find = pdfium.FPDFText_GetCharIndexFromTextIndex
    return [find(text_page, position) for position in range(len(text))]


def quarters_to_upright(text_page: pypdfium2.PdfTextPage) -> int:
    """Tell after how many clockwise right angles most of the text stands upright."""
    counts = Counter(
        round(pdfium.FPDFText_GetCharAngle(text_page, index) / (math.pi / 2)) % 4
        for index in sampled(text_page)
    )
    # PDFium measures how far the page would have to be turned anticlockwise
    return (4 - counts.most_common(1)[0][0]) % 4 if counts else 0


def sampled(text_page: pypdfium2.PdfTextPage) -> Iterator[int]:
    """Yield the numbers of some visible characters, spread evenly over the page."""
    num_characters = text_page.count_chars()
    step = max(num_characters // _NUM_SAMPLES, 1)
    for index in range(0, num_characters, step):
        if not pdfium.FPDFText_IsGenerated(text_page, index):
            yield index
