"""Tells text whose letters are not known from text that can be read.

Knows characters and what PDFium says of their mapping. Must not know layout or forms.
"""

from __future__ import annotations

import unicodedata

import pypdfium2
import pypdfium2.raw as pdfium

# shorter runs are bullets, ornaments and signs
_MIN_RUN = 10
_MAX_UNKNOWN_SHARE = 0.3
# control, private use, unassigned, half characters
_UNKNOWN_CATEGORIES = {"Cc", "Co", "Cn", "Cs"}
_REPLACEMENT = "\ufffd"


def unreadable_part(text_page: pypdfium2.PdfTextPage) -> str:
    """Tell how much of a page is drawn with fonts that do not say which letters they draw.

    Returns:
        "page" for most of it or much, "places" for at least some words, "" for nothing.
    """
    num_unknown, num_letters, run, longest_run = 0, 0, 0, 0
    for index in range(text_page.count_chars()):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        is_unknown = _is_unknown(text_page, index, chr(code))
        if is_unknown is None:
            continue
        num_letters += 1
        num_unknown += is_unknown
        run = run + 1 if is_unknown else 0
        longest_run = max(longest_run, run)
    if longest_run < _MIN_RUN:
        return ""
    return "page" if num_unknown > _MAX_UNKNOWN_SHARE * num_letters else "places"


def _is_unknown(text_page: pypdfium2.PdfTextPage, index: int, character: str) -> bool | None:
    """Tell whether a character is not known; None for blanks, which are neither."""
    if character.isspace():
        return None
    if pdfium.FPDFText_HasUnicodeMapError(text_page, index) == 1:
        return True
    return character == _REPLACEMENT or unicodedata.category(character) in _UNKNOWN_CATEGORIES
