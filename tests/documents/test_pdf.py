"""PDFs: the text of the good ones, and the right sentence for the others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pdf_files import make_locked_pdf, make_pdf, placed_page, scanned_page, text_page

from nexusquant.documents import PasswordError, extract
from nexusquant.documents.pdf import pages
from nexusquant.documents.pdf.tidy import tidy_text
from nexusquant.documents.worker import process
from nexusquant.errors import DocumentError

HELLO = text_page(["Hello (world) \\ one", "and a second line"])
HELLO_TEXT = "Hello (world) \\ one\nand a second line"


def use_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Let another program answer in the worker's place; it finds `first` and `send`."""
    script = tmp_path / "worker.py"
    head = (
        "import json, os, sys, time\n"
        "first = json.loads(sys.stdin.readline())['request']['first']\n"
        "def send(**message): print(json.dumps(message), flush=True)\n"
        "def page(number): send(number=number, text=f'page {number}')\n"
    )
    script.write_text(head + body + "\nsend(is_done=True)\n")
    monkeypatch.setattr(process, "MAIN", script)


def test_pages_are_numbered_from_one_in_the_order_of_the_file(save) -> None:
    document = extract(save("a.pdf", make_pdf([HELLO, text_page(["Second"])])))
    assert [(page.number, page.text) for page in document.pages] == [(1, HELLO_TEXT), (2, "Second")]
    assert (document.kind, document.name) == ("pdf", "a.pdf")
    assert document.empty_pages == document.broken_pages == document.notes == ()


def test_a_pdf_is_known_by_its_bytes_and_not_by_its_name(save) -> None:
    assert extract(save("letter.txt", b"\n\n" + make_pdf([HELLO]))).kind == "pdf"


def test_names_and_folders_may_hold_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "my [files] für 你好" / "naïve 🙂.pdf"
    path.parent.mkdir()
    path.write_bytes(make_pdf([HELLO]))
    assert extract(path).pages[0].text == HELLO_TEXT


def test_two_columns_stored_row_by_row_are_read_column_by_column(save) -> None:
    items = [(60.0, 740.0, "A heading that spans both columns of this page from left to right")]
    for row in range(20):
        for left, side in ((60.0, "left"), (320.0, "right")):
            items.append((left, 700.0 - 12 * row, f"{side} {row} goes on for the whole width"))
    lines = extract(save("a.pdf", make_pdf([placed_page(items)]))).pages[0].text.split("\n")
    expected = [f"{side} {row}" for side in ("left", "right") for row in range(20)]
    assert [" ".join(line.split()[:2]) for line in lines[1:]] == expected


def test_scanned_pages_are_listed_and_the_rest_is_read(save) -> None:
    pages = [HELLO, scanned_page(), scanned_page(stamp="p. 3"), b"", HELLO]
    document = extract(save("a.pdf", make_pdf(pages)))
    assert document.empty_pages == (2, 3)
    assert [page.text for page in document.pages] == [HELLO_TEXT, "", "p. 3", "", HELLO_TEXT]
    assert document.notes[0].startswith("Pages 2-3 have no text, only pictures")


def test_a_scan_says_what_it_is_and_what_can_be_done(save) -> None:
    with pytest.raises(DocumentError, match=r"Pages 1-3 have no text.*recognises text \(OCR\)"):
        extract(save("a.pdf", make_pdf([scanned_page()] * 3)))


def test_a_broken_page_is_listed_and_the_rest_is_read(save) -> None:
    document = extract(save("a.pdf", make_pdf([HELLO, None, HELLO])))
    assert document.broken_pages == (2,)
    assert [page.text for page in document.pages] == [HELLO_TEXT, "", HELLO_TEXT]
    assert document.notes[0].startswith("Page 2 has errors")


def test_a_file_of_broken_pages_says_so(save) -> None:
    with pytest.raises(DocumentError, match="Not one page of the PDF could be read"):
        extract(save("a.pdf", make_pdf([None, None])))


@pytest.mark.parametrize("content", [b"%PDF-1.7 and nonsense", make_pdf([HELLO])[:300], b"%PDF-"])
def test_a_broken_file_says_so(save, content: bytes) -> None:
    with pytest.raises(DocumentError, match="The PDF is broken"):
        extract(save("a.pdf", content))


def test_a_locked_file_asks_for_its_password(save) -> None:
    path = save("a.pdf", make_locked_pdf([HELLO], "sesame"))
    with pytest.raises(PasswordError, match="Enter its password"):
        extract(path)
    with pytest.raises(PasswordError, match="does not open"):
        extract(path, password="simsala")
    assert extract(path, password="sesame").pages[0].text == HELLO_TEXT


def test_a_page_that_kills_the_worker_is_listed_and_the_rest_is_read(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
send(num_pages=5)
for number in range(first, 6):
    if number in (2, 4):
        print('{"number":', end="", flush=True)
        os.abort()
    page(number)
"""
    use_worker(monkeypatch, tmp_path, body)
    document = extract(save("a.pdf", b"%PDF-"))
    assert document.broken_pages == (2, 4)
    assert [page.text for page in document.pages] == ["page 1", "", "page 3", "", "page 5"]


def test_a_page_that_never_ends_is_given_up(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
send(num_pages=3)
for number in range(first, 4):
    time.sleep(60 if number == 2 else 0)
    page(number)
"""
    use_worker(monkeypatch, tmp_path, body)
    monkeypatch.setattr(process, "_MAX_SILENCE_S", 1.0)
    document = extract(save("a.pdf", b"%PDF-"))
    assert document.broken_pages == (2,)
    assert document.pages[2].text == "page 3"


def test_a_file_that_kills_the_worker_on_every_page_is_given_up(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_worker(monkeypatch, tmp_path, "send(num_pages=1000)\nos.abort()")
    start = time.perf_counter()
    with pytest.raises(DocumentError, match="Not one page"):
        extract(save("a.pdf", b"%PDF-"))
    assert time.perf_counter() - start < 10


def test_a_worker_that_dies_at_once_means_a_broken_file(
    save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_worker(monkeypatch, tmp_path, "os.abort()")
    with pytest.raises(DocumentError, match="The PDF is broken"):
        extract(save("a.pdf", b"%PDF-"))


def test_reading_has_a_time_limit(save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "send(num_pages=10**4)\nfor n in range(1, 10**4): page(n); time.sleep(0.1)"
    use_worker(monkeypatch, tmp_path, body)
    monkeypatch.setattr(process, "_START_S", 1.0)
    monkeypatch.setattr(process, "_PER_MEGABYTE_S", 0.0)
    with pytest.raises(DocumentError, match="was stopped"):
        extract(save("a.pdf", b"%PDF-"))


def test_more_pages_than_allowed_are_refused_and_not_cut(
    save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_MAX_PAGES", 2)
    with pytest.raises(DocumentError, match="has 3 pages; up to 2"):
        extract(save("a.pdf", make_pdf([HELLO] * 3)))


def test_print_artefacts_are_undone() -> None:
    text = "o\ufb03ce con\ufffe\r\nducted\r\n1.1 Title . . . . 12\r\n{1, . . . , k} so...\x00\x14"
    assert tidy_text(text) == "office conducted\n1.1 Title 12\n{1, . . . , k} so..."


def test_text_of_half_characters_stays_encodable() -> None:
    assert tidy_text("a\ud800b").encode() == "a\ufffdb".encode()


def test_three_hundred_pages_are_read_in_seconds(save) -> None:
    line = "the quick brown fox jumps over the lazy dog and 25 more animals"
    content = make_pdf([text_page([line] * 48)] * 300)
    path = save("a.pdf", content)
    start = time.perf_counter()
    document = extract(path)
    # a few times the usual, as the machine may be busy
    assert time.perf_counter() - start < 12
    assert len(document.pages) == 300
    assert document.pages[299].text.count(line) == 48


def test_a_real_manual_is_read_in_order_with_whole_words(r_manual: Path) -> None:
    document = extract(r_manual)
    assert len(document.pages) == 113
    text = document.pages[11].text
    assert text.startswith("Chapter 1: Introduction and preliminaries 6\nThe recall and editing")
    for phrase in (
        "1.10 Executing commands from or diverting output to a file\nIf commands",
        'with the command\n> source("commands.R")\nFor Windows Source',
        "separate working directories for analyses conducted with R",
    ):
        assert phrase in text
    assert "1.10 Executing commands from or diverting output to a file 6" in document.pages[2].text
    assert not any("\ufffe" in page.text or ". . . ." in page.text for page in document.pages)
