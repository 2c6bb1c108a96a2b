"""Tells text whose letters are not known from text that can be read.

Knows characters and what PDFium says of their mapping. Must not know layout or forms.
"""

from __future__ import annotations

import unicodedata

import pypdfium2
import pypdfium2.raw as pdfium

from nexusquant.documents.pdf.pdfium import sampled

_MIN_CHARACTERS = 10
_MAX_UNKNOWN_SHARE = 0.3
# control, private use, unassigned, half characters
_UNKNOWN_CATEGORIES = {"Cc", "Co", "Cn", "Cs"}
_REPLACEMENT = "\ufffd"


def reads_like_nonsense(text_page: pypdfium2.PdfTextPage) -> bool:
    """Tell whether the fonts of a page do not say which letters they draw."""
    indices = list(sampled(text_page))
    num_unknown = sum(_is_unknown(text_page, index) for index in indices)
    return num_unknown >= _MIN_CHARACTERS and num_unknown > _MAX_UNKNOWN_SHARE * len(indices)


def _is_unknown(text_page: pypdfium2.PdfTextPage, index: int) -> bool:
    if pdfium.FPDFText_HasUnicodeMapError(text_page, index) == 1:
        return True
    character = chr(pdfium.FPDFText_GetUnicode(text_page, index))
    if character.isspace():
        return False
    return character == _REPLACEMENT or unicodedata.category(character) in _UNKNOWN_CATEGORIES
