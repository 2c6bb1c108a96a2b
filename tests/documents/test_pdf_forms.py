"""Fields and notes of PDFs: what a reader of the page sees stands in its text, where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from pdf_files import placed_page
from pdf_forms import Note, check_box, make_form, text_field

from nexusquant.documents import extract

PDFS = Path(__file__).with_name("pdfs")
LABELS = placed_page([(72, 720, "Name"), (72, 690, "Amount"), (72, 660, "The office")])
FIRST, SECOND = (130, 716, 330, 732), (130, 686, 330, 702)
LIST = (130, 640, 330, 700)
LIST_LABELS = placed_page([(72, 690, "Wood"), (72, 600, "End")])
BOX_LABELS = placed_page([(90, 720, "Storm"), (90, 700, "Flood"), (90, 680, "Glass")])
BOXES = [(72, bottom, 84, bottom + 12) for bottom in (718, 698, 678)]
LOOK = "/DA (/F1 10 Tf 0 g)"


def sample(name: str) -> str:
    return "\n".join(page.text for page in extract(PDFS / name).pages)


@pytest.fixture
def lines(save):
    """Read a form of one page; gives its lines."""

    def read(content: bytes, notes: list[Note], **more) -> list[str]:
        document = extract(save("a.pdf", make_form(content, notes, **more)))
        assert document.notes == ()
        return document.pages[0].text.split("\n")

    return read


def test_filled_fields_are_read_after_their_label_and_before_the_next() -> None:
    text = sample("form_text_fields.pdf")
    parts = ["Name", "Hedda Lunding", "Amount claimed", "EUR 61,940", "What happened"]
    places = [text.index(part) for part in [*parts, "eleven roof tiles", "The office"]]
    assert places == sorted(places)


def test_ticked_and_empty_boxes_are_told_apart() -> None:
    marks = {
        line.replace(" cover", "").replace("[x]", "").replace("[ ]", "").strip(): "[x]" in line
        for line in sample("form_checkboxes.pdf").split("\n")
        if " cover" in line
    }
    assert marks == {"Storm": True, "Flood": False, "Glass": True, "Theft": False}


def test_choices_are_told_from_what_was_not_chosen() -> None:
    text = sample("form_choices.pdf")
    assert "Slate grey" in text
    assert "Brick red" not in text
    assert "[x] By river barge" in text
    assert "[ ] By lorry" in text


def test_values_that_nobody_has_drawn_are_read() -> None:
    text = sample("form_without_appearances.pdf")
    assert "Sturmvogel II" in text
    assert "8.75" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("free_text_note.pdf", "2,730 litres"),
        ("stamp.pdf", "PAID 14 MARCH"),
        ("signature_appearance.pdf", "Tormod Vesterlund"),
        ("hidden_field.pdf", "Crack at bollard nine"),
    ],
)
def test_notes_stamps_and_signatures_are_read(name: str, shown: str) -> None:
    assert shown in sample(name)


def test_a_hidden_field_is_not_read() -> None:
    assert "internal draft 77" not in sample("hidden_field.pdf")


def test_a_page_of_nothing_but_fields_is_read() -> None:
    document = extract(PDFS / "form_only.pdf")
    for part in ("Skarvik Timber Works", "Crates: 48", "Esbjerg"):
        assert part in document.pages[0].text
    assert document.empty_pages == document.notes == ()


@pytest.mark.parametrize("drawn", [None, "Anna"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_fields_stand_after_their_labels_on_turned_pages(lines, rotation, drawn) -> None:
    notes = [text_field(FIRST, "Anna", drawn), text_field(SECOND, "12")]
    expected = ["Name Anna", "Amount 12", "The office"]
    assert lines(LABELS, notes, page=f"/Rotate {rotation}") == expected


@pytest.mark.parametrize(
    ("value", "drawn", "form", "shown"),
    [
        ("12", "EUR 12.00", "", "EUR 12.00"),
        ("new", "old", "/NeedAppearances true", "new"),
        ("there", "", "", "there"),
        ("line one\nline two", "line one\nline two", "", "line one\nline two"),
    ],
)
def test_what_is_drawn_goes_before_what_is_held(lines, value, drawn, form, shown) -> None:
    text = "\n".join(lines(LABELS, [text_field(FIRST, value, drawn)], form=form))
    assert text == f"Name {shown}\nAmount\nThe office"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("<FEFF041F04400438043204350442>", "Привет"),
        ("<FEFF65E5672C8A9E>", "日本語"),
        ("<EFBBBFC5BD6C75C5A5>", "Žluť"),
        ("(a \\(b\\) \\\\ c)", "a (b) \\ c"),
    ],
)
def test_values_in_any_alphabet_are_read(lines, value: str, shown: str) -> None:
    field = Note(FIRST, f"/Subtype /Widget /FT /Tx /T (x) /V {value} {LOOK}")
    assert lines(LABELS, [field])[0] == f"Name {shown}"


def test_spaced_letters_of_a_comb_are_one_word(lines) -> None:
    comb = "/Ff 16777216 /MaxLen 10"
    notes = [text_field(FIRST, "1234567", None, comb)]
    notes.append(text_field(SECOND, "98765", "9    8   7    6   5", comb))
    assert lines(LABELS, notes) == ["Name 1234567", "Amount 98765", "The office"]


@pytest.mark.parametrize("drawn", [None, "*******"])
def test_a_password_is_not_read(lines, drawn) -> None:
    text = "\n".join(lines(LABELS, [text_field(FIRST, "sesame7", drawn, "/Ff 8192")]))
    assert "sesame7" not in text
    assert text.startswith("Name")


@pytest.mark.parametrize("drawn", [None, "unseen"])
@pytest.mark.parametrize("flags", [2, 32, 2 | 4, 32 | 64])
def test_hidden_and_unviewed_notes_are_not_read(lines, flags: int, drawn) -> None:
    notes = [text_field(FIRST, "unseen", drawn, f"/F {flags}")]
    notes.append(
        Note(
            SECOND,
            f"/Subtype /FreeText /Contents (unseen) {LOOK} /F {flags}",
            drawn,
            is_field=False,
        )
    )
    assert lines(LABELS, notes) == ["Name", "Amount", "The office"]


@pytest.mark.parametrize(
    "kind", ["/Text", "/Popup", "/FileAttachment", "/Link", "/Highlight", "/Ink", "/Sound"]
)
def test_comments_that_open_on_a_click_are_not_read(lines, kind: str) -> None:
    note = Note(FIRST, f"/Subtype {kind} /Contents (a comment)", is_field=False)
    assert lines(LABELS, [note]) == ["Name", "Amount", "The office"]


@pytest.mark.parametrize("rect", [(700, 700, 800, 720), (130, -90, 300, -70)])
def test_fields_beside_the_page_are_not_read(lines, rect) -> None:
    assert lines(LABELS, [text_field(rect, "beside")]) == ["Name", "Amount", "The office"]


def test_typed_notes_are_read_with_and_without_a_drawing(lines) -> None:
    body = f"/Subtype /FreeText /Contents (typed here) {LOOK}"
    for drawn in (None, "typed here"):
        assert lines(LABELS, [Note(FIRST, body, drawn, is_field=False)])[0] == "Name typed here"


def test_fields_that_inherit_from_a_parent_are_read(lines) -> None:
    child = Note(FIRST, f"/Subtype /Widget /Parent 500 0 R {LOOK}", is_field=False)
    parent = "<< /FT /Tx /T (p) /V (inherited) /Kids [10 0 R] >>"
    text = lines(LABELS, [child], form="/Fields [500 0 R]", more={500: parent})
    assert text[0] == "Name inherited"


def test_fields_that_no_form_lists_are_read(save) -> None:
    notes = [text_field(FIRST, "drawn", "drawn"), text_field(SECOND, "held")]
    notes += [check_box((72, 600, 84, 612), True), check_box((72, 580, 84, 592), False)]
    labels = LABELS + b"\n" + placed_page([(90, 602, "Storm"), (90, 582, "Flood")])
    content = make_form(labels, notes).replace(b"/AcroForm", b"/NoFormAt")
    text = extract(save("a.pdf", content)).pages[0].text
    assert text == "Name drawn\nAmount held\nThe office\n[x] Storm\n[ ] Flood"


def test_labels_may_stand_left_right_and_above(lines) -> None:
    left = placed_page([(72, 720, "Storm"), (72, 700, "Flood")])
    notes = [check_box((130, 718, 142, 730), True), check_box((130, 698, 142, 710), False)]
    assert lines(left, notes) == ["Storm [x]", "Flood [ ]"]
    row = placed_page([(90, 720, "Yes"), (150, 720, "No"), (210, 720, "Maybe")])
    notes = [check_box((x, 718, x + 12, 730), x == 135) for x in (75, 135, 195)]
    assert lines(row, notes) == ["[ ] Yes [x] No [ ] Maybe"]
    above = placed_page([(72, 720, "First name"), (320, 720, "Last name"), (72, 670, "Town")])
    notes = [text_field((72, 698, 300, 716), "Anna"), text_field((320, 698, 560, 716), "Berg")]
    notes.append(text_field((72, 648, 300, 666), "Mora"))
    assert lines(above, notes) == ["First name", "Anna", "Last name", "Berg", "Town", "Mora"]


@pytest.mark.parametrize("step", [20, 36])
def test_tables_of_fields_are_read_by_rows(lines, step: int) -> None:
    heads = [(72, 720, "Item"), (172, 720, "Count"), (272, 720, "Price"), (72, 520, "Total")]
    notes = [
        text_field((72 + 100 * x, 690 - step * y, 160 + 100 * x, 706 - step * y), f"r{y}c{x}")
        for y in range(4)
        for x in range(3)
    ]
    rows = [f"r{y}c0 r{y}c1 r{y}c2" for y in range(4)]
    assert lines(placed_page(heads), notes) == ["Item Count Price", *rows, "Total"]


def test_several_fields_under_one_label_keep_their_order(lines) -> None:
    content = placed_page([(72, 720, "Address"), (72, 620, "Total")])
    notes = [text_field((72, 690 - 20 * y, 300, 706 - 20 * y), f"line {y}") for y in (2, 0, 1)]
    assert lines(content, notes) == ["Address", "line 0", "line 1", "line 2", "Total"]


@pytest.mark.parametrize(
    "entries",
    [
        "/Subtype /Widget /FT /Btn /Ff 49152 /Parent 500 0 R",
        "/Subtype /Widget /Parent 500 0 R",
    ],
)
def test_the_chosen_radio_button_is_marked(lines, entries: str) -> None:
    notes = [
        Note(
            box,
            f"{entries} /AS /{name if name == 'b' else 'Off'}",
            states={name: "l", "Off": ""},
            is_field=False,
        )
        for box, name in zip(BOXES, "abc", strict=True)
    ]
    parent = "<< /FT /Btn /Ff 49152 /T (r) /V /b /Kids [10 0 R 11 0 R 12 0 R] >>"
    text = lines(BOX_LABELS, notes, form="/Fields [500 0 R]", more={500: parent})
    assert text == ["[ ] Storm", "[x] Flood", "[ ] Glass"]


BOX = "/Subtype /Widget /FT /Btn /T"


@pytest.mark.parametrize(
    "notes",
    [
        # names of states are free
        [
            Note(BOXES[0], f"{BOX} (a) /V /On /AS /On", states={"On": "4", "Off": ""}),
            Note(BOXES[1], f"{BOX} (b) /AS /Off", states={"1": "4"}),
            Note(BOXES[2], f"{BOX} (c) /V /1 /AS /1", states={"1": "4"}),
        ],
        # nothing is drawn
        [
            Note(BOXES[0], f"{BOX} (a) /V /Yes /AS /Yes"),
            Note(BOXES[1], f"{BOX} (b) /V /Off /AS /Off"),
            Note(BOXES[2], f"{BOX} (c) /V /Yes"),
        ],
        # only the value tells
        [
            Note(BOXES[0], f"{BOX} (a) /V /On", states={"On": "4", "Off": ""}),
            Note(BOXES[1], f"{BOX} (b)", states={"1": "4"}),
            Note(BOXES[2], f"{BOX} (c) /V /1", states={"1": "4"}),
        ],
    ],
)
def test_ticks_are_found_however_they_are_stored(lines, notes: list[Note]) -> None:
    assert lines(BOX_LABELS, notes) == ["[x] Storm", "[ ] Flood", "[x] Glass"]


def list_box(entries: str, options: str = "(Oak) (Ash) (Elm)") -> Note:
    return Note(LIST, f"/Subtype /Widget /FT /Ch /T (l) /Opt [{options}] {LOOK} {entries}")


@pytest.mark.parametrize("entries", ["/V [(Oak) (Elm)]", "/V [(Oak) (Elm)] /I [0 2]"])
def test_all_choices_of_a_list_are_marked(lines, entries: str) -> None:
    text = lines(LIST_LABELS, [list_box(f"/Ff 2097152 {entries}")])
    assert text == ["Wood [x] Oak", "[ ] Ash", "[x] Elm", "End"]


def test_of_a_long_list_only_the_choice_is_read(lines) -> None:
    options = " ".join(f"(wood {number})" for number in range(500))
    assert lines(LIST_LABELS, [list_box("/V (wood 77)", options)]) == ["Wood [x] wood 77", "End"]


def test_options_are_read_as_they_are_shown_and_not_as_they_are_sent(lines) -> None:
    text = lines(LIST_LABELS, [list_box("/V (a)", "[(o) (Oak)] [(a) (Ash)]")])
    assert text == ["Wood [ ] Oak", "[x] Ash", "End"]
    combo = list_box("/Ff 131072 /V (a)", "[(o) (Oak)] [(a) (Ash)]")
    assert lines(LIST_LABELS, [combo]) == ["Wood Ash", "End"]


def test_what_was_typed_into_a_combo_box_is_read(lines) -> None:
    assert lines(LIST_LABELS, [list_box("/Ff 393216 /V (Walnut)")]) == ["Wood Walnut", "End"]
