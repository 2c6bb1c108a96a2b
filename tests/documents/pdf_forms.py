"""Small PDFs with fields and notes, written byte by byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pdf_files import PAGE_HEIGHT, PAGE_WIDTH, Body, escaped, write_pdf

Rect = tuple[float, float, float, float]
FONT, PAGE = 3, 4
_FIRST_NOTE, _FIRST_DRAWING = 10, 200


@dataclass(frozen=True)
class Note:
    """An annotation or a field.

    Args:
        rect: left, bottom, right, top.
        entries: All of its dictionary but Type, Rect and AP.
        drawn: Text that its appearance shows; None for no appearance.
        states: Instead, the text that the appearance of each state of a box shows.
        is_field: Whether the form lists it.
    """

    rect: Rect
    entries: str
    drawn: str | None = None
    states: Mapping[str, str] | None = None
    is_field: bool = True


def text_field(rect: Rect, value: str, drawn: str | None = None, entries: str = "") -> Note:
    """A text field; without `drawn` only its value tells what it holds."""
    body = f"/Subtype /Widget /FT /Tx /T (f{rect[0]}{rect[1]}) /V ({escaped(value)}) "
    return Note(rect, body + "/DA (/F1 10 Tf 0 g) " + entries, drawn)


def check_box(rect: Rect, is_ticked: bool, entries: str = "") -> Note:
    """A box to tick whose mark is drawn as a letter."""
    state = "Yes" if is_ticked else "Off"
    body = f"/Subtype /Widget /FT /Btn /T (b{rect[0]}{rect[1]}) /V /{state} /AS /{state} "
    return Note(rect, body + entries, states={"Yes": "X", "Off": ""})


def make_form(
    content: bytes,
    notes: Sequence[Note],
    *,
    page: str = "",
    form: str = "/NeedAppearances false",
    more: Mapping[int, Body] | None = None,
) -> bytes:
    """One page with fields and notes.

    Args:
        content: What the page itself draws.
        notes: Fields and notes.
        page: Further entries of the page, such as /Rotate.
        form: Further entries of the form.
        more: Further objects, by number from 500 on, or others in place of the usual ones.
    """
    numbers = range(_FIRST_NOTE, _FIRST_NOTE + len(notes))
    references = [f"{number} 0 R" for number in numbers]
    fields = [r for r, note in zip(references, notes, strict=True) if note.is_field]
    font = f"<< /Font << /F1 {FONT} 0 R >> >>"
    objects: dict[int, Body] = {
        1: f"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [{' '.join(fields)}] "
        f"/DA (/F1 10 Tf 0 g) /DR {font} {form} >> >>",
        2: f"<< /Type /Pages /Kids [{PAGE} 0 R] /Count 1 >>",
        FONT: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        PAGE: f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {PAGE_WIDTH} {PAGE_HEIGHT}] "
        f"/Contents 5 0 R /Resources {font} /Annots [{' '.join(references)}] {page} >>",
        5: ("", content),
    }
    drawings: dict[int, Body] = {}
    for number, note in zip(numbers, notes, strict=True):
        objects[number] = _annotation(note, drawings)
    return write_pdf(dict(sorted((objects | drawings | dict(more or {})).items())))


def _annotation(note: Note, drawings: dict[int, Body]) -> str:
    shown = ""
    if note.drawn is not None:
        shown = f"/AP << /N {_draw(note, note.drawn, drawings)} >>"
    elif note.states is not None:
        states = [f"/{name} {_draw(note, text, drawings)}" for name, text in note.states.items()]
        shown = f"/AP << /N << {' '.join(states)} >> >>"
    rect = " ".join(f"{edge:g}" for edge in note.rect)
    return f"<< /Type /Annot /Rect [{rect}] {note.entries} {shown} >>"


def _draw(note: Note, text: str, drawings: dict[int, Body]) -> str:
    number = _FIRST_DRAWING + len(drawings)
    left, bottom, right, top = note.rect
    lines = [
        f"BT /F1 10 Tf 2 {top - bottom - 12 * (row + 1):g} Td ({escaped(line)}) Tj ET"
        for row, line in enumerate(text.split("\n"))
    ]
    drawings[number] = (
        f"/Type /XObject /Subtype /Form /BBox [0 0 {right - left:g} {top - bottom:g}] "
        f"/Resources << /Font << /F1 {FONT} 0 R >> >>",
        "\n".join(lines).encode("latin-1"),
    )
    return f"{number} 0 R"
