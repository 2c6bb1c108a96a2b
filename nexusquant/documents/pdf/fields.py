"""What forms, notes and stamps show on a page: their text and where it stands.

Knows PDFium's annotations and form fields. Must not know where in the page's text they belong.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from nexusquant.documents.pdf.insets import Inset
from nexusquant.documents.pdf.layout import Box
from nexusquant.documents.pdf.pdfium import address, string

_HIDDEN_FLAGS = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
# a sticky note and an attached file show an icon, a popup opens on a click, a link has no text
_WITHOUT_TEXT = {
    pdfium.FPDF_ANNOT_LINK,
    pdfium.FPDF_ANNOT_POPUP,
    pdfium.FPDF_ANNOT_TEXT,
    pdfium.FPDF_ANNOT_FILEATTACHMENT,
}
_MARKED = {pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON}
_TICKED, _EMPTY = "[x]", "[ ]"
_PASSWORD_FLAG = 1 << 13
_PUSH_BUTTON_FLAG = 1 << 16
_MAX_ANNOTATIONS = 5_000
_MAX_OPTIONS = 10_000
# of a longer list only what was chosen is told
_MAX_SHOWN_OPTIONS = 30
_MAX_NESTING = 20
_HYPHEN_MARKS = {0x2, 0xFFFE}


@dataclass(frozen=True)
class _Annotation:
    """What can be told of an annotation without drawing it; options are (label, is_chosen)."""

    box: Box
    kind: int
    is_ticked: bool
    is_secret: bool
    value: str
    options: tuple[tuple[str, bool], ...] = ()


def stateless_positions(page: pypdfium2.PdfPage) -> frozenset[int] | None:
    """Find the fields and notes of a page that do not say which of their states is shown.

    PDFium adds a state of its own once the page is loaded with its form, so look before.

    Returns:
        Their positions among all of the page; None if the page has no fields and notes at all.
    """
    num_annotations = min(pdfium.FPDFPage_GetAnnotCount(page), _MAX_ANNOTATIONS)
    if num_annotations <= 0:
        return None
    positions = []
    for position in range(num_annotations):
        if handle := pdfium.FPDFPage_GetAnnot(page, position):
            if not _entry(handle, b"AS"):
                positions.append(position)
            pdfium.FPDFPage_CloseAnnot(handle)
    return frozenset(positions)


def insets_of(
    document: pypdfium2.PdfDocument, index: int, quarters: int, stateless: frozenset[int]
) -> list[Inset]:
    """List what fields and notes show on a page. Draws them into the page: read its text before.

    Args:
        document: With its form, if it has one.
        index: Of the page, from 0.
        quarters: Clockwise right angles after which the page's text stands upright.
        stateless: What `stateless_positions` found.
    """
    page = document[index]
    annotations = list(_visible(document, page, stateless))
    if not annotations:
        return []
    num_objects = pdfium.FPDFPage_CountObjects(page)
    is_drawn = pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY) == pdfium.FLATTEN_SUCCESS
    page.close()
    drawn = _drawn_texts(document, index, num_objects, annotations) if is_drawn else {}
    insets = []
    for position, annotation in enumerate(annotations):
        is_mark = annotation.kind in _MARKED
        if text := _shown_text(annotation, drawn.get(position, "")):
            insets.append(Inset(text, annotation.box.turned(quarters), is_mark))
    return insets


def _shown_text(annotation: _Annotation, drawn: str) -> str:
    if annotation.kind in _MARKED:
        return _TICKED if annotation.is_ticked else _EMPTY
    if annotation.kind == pdfium.FPDF_FORMFIELD_LISTBOX:
        return _list_text(annotation)
    if annotation.is_secret:
        return drawn
    chosen = " ".join(label for label, is_chosen in annotation.options if is_chosen)
    values = chosen or annotation.value
    # spaced letters of a comb, lines that were broken to fit: the value is the better text
    return values if _letters(values) == _letters(drawn) else drawn or values


def _list_text(annotation: _Annotation) -> str:
    options = annotation.options
    if annotation.value and not any(is_chosen for _, is_chosen in options):
        return f"{_TICKED} {annotation.value}"
    if len(options) > _MAX_SHOWN_OPTIONS:
        options = tuple(option for option in options if option[1])
    return "\n".join(f"{_TICKED if is_chosen else _EMPTY} {label}" for label, is_chosen in options)


def _letters(text: str) -> str:
    return "".join(text.split())


def _visible(
    document: pypdfium2.PdfDocument, page: pypdfium2.PdfPage, stateless: frozenset[int]
) -> Iterator[_Annotation]:
    area = _page_box(page)
    for position in range(min(pdfium.FPDFPage_GetAnnotCount(page), _MAX_ANNOTATIONS)):
        handle = pdfium.FPDFPage_GetAnnot(page, position)
        if not handle:
            continue
        try:
            box = _box(handle)
            is_hidden = pdfium.FPDFAnnot_GetFlags(handle) & _HIDDEN_FLAGS
            is_textless = pdfium.FPDFAnnot_GetSubtype(handle) in _WITHOUT_TEXT
            if not is_hidden and not is_textless and box.overlap_area(area):
                yield _annotation(document.formenv, handle, box, position in stateless)
        finally:
            pdfium.FPDFPage_CloseAnnot(handle)


def _page_box(page: pypdfium2.PdfPage) -> Box:
    left, bottom, right, top = page.get_cropbox()
    return Box(min(left, right), min(bottom, top), max(left, right), max(bottom, top))


def _box(handle: Any) -> Box:
    rect = pdfium.FS_RECTF()
    pdfium.FPDFAnnot_GetRect(handle, rect)
    return Box(
        min(rect.left, rect.right),
        min(rect.bottom, rect.top),
        max(rect.left, rect.right),
        max(rect.bottom, rect.top),
    )


def _annotation(form: Any, handle: Any, box: Box, is_stateless: bool) -> _Annotation:
    subtype = pdfium.FPDFAnnot_GetSubtype(handle)
    if subtype != pdfium.FPDF_ANNOT_WIDGET:
        is_typed = subtype == pdfium.FPDF_ANNOT_FREETEXT
        value = _entry(handle, b"Contents") if is_typed else ""
        return _Annotation(box, -1, False, False, value)
    if not form:
        return _formless_field(handle, box)
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, handle)
    flags = pdfium.FPDFAnnot_GetFormFieldFlags(form, handle)
    value = string(pdfium.FPDFAnnot_GetFormFieldValue, form, handle)
    is_secret = kind == pdfium.FPDF_FORMFIELD_TEXTFIELD and bool(flags & _PASSWORD_FLAG)
    is_ticked = kind in _MARKED and _is_ticked(form, handle, is_stateless)
    is_button = kind == pdfium.FPDF_FORMFIELD_PUSHBUTTON
    shown = "" if is_secret or is_button else value
    return _Annotation(box, kind, is_ticked, is_secret, shown, _options(form, handle))


def _formless_field(handle: Any, box: Box) -> _Annotation:
    """Describe a field of a file whose form is missing: by what its own entries say."""
    flags = ctypes.c_float()
    pdfium.FPDFAnnot_GetNumberValue(handle, b"Ff", flags)
    if _entry(handle, b"FT") == "Btn" and not int(flags.value) & _PUSH_BUTTON_FLAG:
        is_ticked = _is_on(_entry(handle, b"AS") or _entry(handle, b"V"))
        return _Annotation(box, pdfium.FPDF_FORMFIELD_CHECKBOX, is_ticked, False, "")
    is_secret = bool(int(flags.value) & _PASSWORD_FLAG)
    value = "" if is_secret else _entry(handle, b"V")
    return _Annotation(box, -1, False, is_secret, value)


def _is_ticked(form: Any, handle: Any, is_stateless: bool) -> bool:
    if pdfium.FPDFAnnot_IsChecked(form, handle):
        return True
    value = _entry(handle, b"V")
    exported = string(pdfium.FPDFAnnot_GetFormFieldExportValue, form, handle)
    # the field's value tells where nothing says what is drawn
    return is_stateless and _is_on(value) and exported in ("", value)


def _is_on(state: str) -> bool:
    return state not in ("", "Off")


def _entry(handle: Any, key: bytes) -> str:
    return string(pdfium.FPDFAnnot_GetStringValue, handle, key)


def _options(form: Any, handle: Any) -> tuple[tuple[str, bool], ...]:
    return tuple(
        (
            string(pdfium.FPDFAnnot_GetOptionLabel, form, handle, position),
            bool(pdfium.FPDFAnnot_IsOptionSelected(form, handle, position)),
        )
        for position in range(min(pdfium.FPDFAnnot_GetOptionCount(form, handle), _MAX_OPTIONS))
    )


def _drawn_texts(
    document: pypdfium2.PdfDocument,
    index: int,
    num_objects: int,
    annotations: list[_Annotation],
) -> dict[int, str]:
    """Read the text that was drawn for each annotation, by its position among them."""
    page = document[index]
    owners: dict[int, int] = {}
    free = set(range(len(annotations)))
    for position in range(num_objects, pdfium.FPDFPage_CountObjects(page)):
        layer = pdfium.FPDFPage_GetObject(page, position)
        # drawing puts one object behind the others, with an object for each annotation
        for drawing in _children(layer):
            owner = _owner(drawing, annotations, free)
            if owner is not None:
                free.discard(owner)
                owners.update(dict.fromkeys(_text_objects(drawing, 0), owner))
    texts = _texts_by_owner(page.get_textpage(), owners) if owners else {}
    page.close()
    return texts


def _children(item: Any) -> Iterator[Any]:
    if pdfium.FPDFPageObj_GetType(item) == pdfium.FPDF_PAGEOBJ_FORM:
        for position in range(pdfium.FPDFFormObj_CountObjects(item)):
            yield pdfium.FPDFFormObj_GetObject(item, position)


def _text_objects(item: Any, depth: int) -> Iterator[int]:
    if pdfium.FPDFPageObj_GetType(item) == pdfium.FPDF_PAGEOBJ_TEXT:
        yield address(item)
    elif depth < _MAX_NESTING:
        for child in _children(item):
            yield from _text_objects(child, depth + 1)


def _owner(drawing: Any, annotations: list[_Annotation], free: set[int]) -> int | None:
    """Find the annotation that a drawing belongs to: the one that it covers most."""
    edges = [ctypes.c_float() for _ in range(4)]
    pdfium.FPDFPageObj_GetBounds(drawing, *edges)
    bounds = Box(*(edge.value for edge in edges))
    areas = {position: annotations[position].box.overlap_area(bounds) for position in sorted(free)}
    best = max(areas, key=lambda position: areas[position], default=None)
    return best if best is not None and areas[best] > 0 else None


def _texts_by_owner(text_page: pypdfium2.PdfTextPage, owners: dict[int, int]) -> dict[int, str]:
    pieces: dict[int, list[str]] = defaultdict(list)
    last_owner, gap = None, ""
    for index in range(text_page.count_chars()):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        character = "-\n" if code in _HYPHEN_MARKS else chr(code)
        if pdfium.FPDFText_IsGenerated(text_page, index) == 1:
            gap += character
            continue
        owner = owners.get(address(pdfium.FPDFText_GetTextObject(text_page, index)))
        if owner is not None:
            pieces[owner].append((gap if owner == last_owner else "") + character)
        last_owner, gap = owner, ""
    joined = {owner: "".join(parts) for owner, parts in pieces.items()}
    return {owner: text.replace("\r\n", "\n").strip() for owner, text in joined.items()}
