"""The text of PDFs: order of columns and turned pages, hyphens, and fonts that name no letters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pdf_files import escaped, make_locked_pdf, make_pdf, placed_page, text_page
from pdf_oddities import font_without_map, glyph_numbers, one_page

from nexusquant.documents import Document, PasswordError, extract
from nexusquant.documents.pdf.tidy import join_hyphens, tidy_text

PDFS = Path(__file__).with_name("pdfs")
SENTENCE = "The ferry leaves at noon and comes back in the evening when all is done."


def text_of(document: Document) -> str:
    return "\n".join(page.text for page in document.pages)


def test_hyphens_stay_where_the_word_has_them() -> None:
    text = text_of(extract(PDFS / "hyphens.pdf"))
    kept = ("QX-307-K", "RT-55", "COVID-19", "mother-in-law", "E-mail")
    for word in (*kept, "Winchester", "postcard", "information"):
        assert word in text


@pytest.mark.parametrize(
    ("left", "right", "joined"),
    [
        ("infor-", "mation", "information"),
        ("\u00fcber-", "all", "\u00fcberall"),
        ("(inter-", "national)", "(international)"),
        ("pages 12-", "15", "pages 12-15"),
        ("B-", "52", "B-52"),
        ("MP3-", "player", "MP3-player"),
        ("NATO-", "led", "NATO-led"),
        ("non-", "EU", "non-EU"),
        ("Anna-", "Maria", "Anna-Maria"),
        ("x-", "ray", "x-ray"),
        ("(e-", "mail)", "(e-mail)"),
        ("father-in-", "law", "father-in-law"),
        ("https://example.org/a-", "b", "https://example.org/a-b"),
        ("some_name-", "space", "some_name-space"),
        ("infor\u2010", "mation", "information"),
        ("COVID\u2010", "19", "COVID\u201019"),
        ("infor\u00ad", "mation", "information"),
        ("a list -", "item", "a list -\nitem"),
        ("end--", "next", "end--\nnext"),
        ("range \u2013", "next", "range \u2013\nnext"),
    ],
)
def test_words_that_a_line_end_parts_are_joined(left: str, right: str, joined: str) -> None:
    assert tidy_text(f"{left}\n{right}") == joined
    assert tidy_text(f"before {left} \n  {right} after").startswith("before ")


def test_joining_hyphens_takes_time_in_proportion() -> None:
    # a search that tries every start anew would take minutes
    text = "a" * 500_000 + "-" * 500_000 + " \t" * 200_000 + "\n" + "b-\n" * 100_000
    assert len(join_hyphens(text)) > 1_000_000
    assert len(tidy_text(" ." * 300_000 + " y")) > 500_000


def test_three_columns_are_read_one_after_the_other() -> None:
    words = re.findall(r"(west|centre|east) (\d+)", text_of(extract(PDFS / "three_columns.pdf")))
    expected = [(name, str(row)) for name in ("west", "centre", "east") for row in range(30)]
    assert words == expected


def columns_page(num_columns: int, num_rows: int = 20) -> bytes:
    """Columns whose lines are stored row by row, under a heading over all of them."""
    step = 480 / num_columns
    filler = "goes on to the end of its column and further"[: int(step / 5) - 8]
    items = [(60.0, 760.0, "A heading that spans all of the columns of this page, left to right")]
    items += [
        (60 + step * column, 730.0 - 12 * row, f"c{column}r{row} {filler}")
        for row in range(num_rows)
        for column in range(num_columns)
    ]
    return placed_page(items)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("num_columns", [2, 3, 4])
def test_columns_are_read_in_order_on_turned_pages(save, num_columns: int, rotation: int) -> None:
    content = make_pdf([columns_page(num_columns)])
    content = content.replace(b"/Type /Page ", f"/Rotate {rotation} /Type /Page ".encode())
    text = text_of(extract(save("a.pdf", content)))
    found = re.findall(r"c(\d)r(\d+)", text)
    assert found == [(str(c), str(r)) for c in range(num_columns) for r in range(20)]
    assert text.startswith("A heading")


def turned_page(quarters: int) -> bytes:
    """Eight lines that run upwards, upside down, or downwards."""
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    left, bottom = [(72, 720), (72, 72), (540, 72), (540, 720)][quarters]
    return "\n".join(
        f"BT /F1 10 Tf {cos} {sin} {-sin} {cos} {left + 12 * row * sin} {bottom - 12 * row * cos} "
        f"Tm ({escaped(f'line {row} of a text that is turned')}) Tj ET"
        for row in range(8)
    ).encode()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_turned_text_is_read_from_its_top(save, quarters: int, rotation: int) -> None:
    content = make_pdf([turned_page(quarters)])
    content = content.replace(b"/Type /Page ", f"/Rotate {rotation} /Type /Page ".encode())
    lines = text_of(extract(save("a.pdf", content))).split("\n")
    assert lines == [f"line {row} of a text that is turned" for row in range(8)]


def test_a_font_without_a_map_is_told() -> None:
    document = extract(PDFS / "font_without_unicode_map.pdf")
    assert document.notes[0].startswith("Page 1 reads like nonsense: ")
    assert "(OCR)" in document.notes[0]


@pytest.mark.parametrize(
    ("num_bad", "num_good", "told"),
    [
        (3, 0, "Page 1 reads like nonsense: "),
        (10, 10, "Page 1 reads like nonsense: "),
        (3, 27, "Page 1 reads like nonsense in places: "),
        (1, 29, "Page 1 reads like nonsense in places: "),
        (0, 3, ""),
    ],
)
def test_parts_without_a_map_are_told(save, num_bad: int, num_good: int, told: str) -> None:
    bad = b"/F2 10 Tf <" + glyph_numbers(SENTENCE) + b"> Tj"
    good = b"/F1 10 Tf (" + SENTENCE.encode() + b") Tj"
    lines = [bad] * num_bad + [good] * num_good
    content = b"\n".join(
        b"BT 72 %d Td %s ET" % (720 - 12 * row, line) for row, line in enumerate(lines)
    )
    document = extract(save("a.pdf", one_page(("", content), more=font_without_map())))
    assert [note.startswith(told) for note in document.notes] == ([True] if told else [])
    assert text_of(document).count(SENTENCE) == num_good


@pytest.mark.parametrize("target", ["E000", "FFFD"])
def test_a_map_to_no_letters_is_told(save, target: str) -> None:
    entries = " ".join(f"<{code:04x}> <{target}>" for code in range(3, 98))
    cmap = f"begincmap 95 beginbfchar {entries} endbfchar endcmap".encode()
    fonts = font_without_map()
    fonts[6] = str(fonts[6]).replace("/DescendantFonts", "/ToUnicode 9 0 R /DescendantFonts")
    content = b"BT /F2 10 Tf 72 700 Td <" + glyph_numbers(SENTENCE) + b"> Tj ET"
    document = extract(save("a.pdf", one_page(("", content), more={**fonts, 9: ("", cmap)})))
    assert "reads like nonsense" in document.notes[0]


def test_glyphs_with_made_up_names_are_told(save) -> None:
    names = " ".join(f"/g{code}" for code in range(32, 127))
    font = (
        "<< /Type /Font /Subtype /Type1 /BaseFont /AAAAAB+Subset /FirstChar 32 /LastChar 126 "
        f"/FontDescriptor 8 0 R /Encoding << /Differences [32 {names}] >> "
        f"/Widths [{'500 ' * 95}] >>"
    )
    content = b"BT /F2 10 Tf 72 700 Td (" + SENTENCE.encode() + b") Tj ET"
    fonts = font_without_map()
    document = extract(save("a.pdf", one_page(("", content), more={6: font, 8: fonts[8]})))
    assert "reads like nonsense" in document.notes[0]


def test_a_few_signs_without_a_letter_are_nothing_to_tell(save) -> None:
    bullet = b"BT /F2 10 Tf 60 %d Td <0081> Tj ET BT /F1 10 Tf 72 %d Td (%s) Tj ET"
    lines = [bullet % (720 - 12 * row, 720 - 12 * row, SENTENCE.encode()) for row in range(20)]
    document = extract(save("a.pdf", one_page(("", b"\n".join(lines)), more=font_without_map())))
    assert document.notes == ()


def test_a_locked_file_with_an_empty_password_opens(save) -> None:
    path = save("a.pdf", make_locked_pdf([text_page([SENTENCE])], ""))
    assert text_of(extract(path)) == SENTENCE


@pytest.mark.parametrize("password", ["", "x" * 5000, "\0", "\ud83d", "пароль", "🙂"])
def test_any_wrong_password_is_refused(save, password: str) -> None:
    path = save("a.pdf", make_locked_pdf([text_page([SENTENCE])], "sesame"))
    with pytest.raises(PasswordError, match="does not open"):
        extract(path, password=password)
