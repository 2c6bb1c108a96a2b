"""PDFs that try to take the machine: each ends in a document or a sentence, within limits."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import psutil
import pytest
from pdf_oddities import HELLO, Body, bomb, forms_in_forms, one_page, packed, packed_objects
from reader_processes import reader_processes

from nexusquant.documents import Document, FileReader
from nexusquant.documents.worker import process
from nexusquant.errors import DocumentError

PDFS = Path(__file__).with_name("pdfs")
MAX_S, MAX_BYTES = 25.0, 1_100_000_000
STAMP = "<< /Type /Annot /Subtype /Stamp /Rect [0 0 300 300] /AP << /N {} 0 R >> >>"


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most memory, in bytes, that the reader process was seen to hold."""
    seen = [0]
    memory_info = psutil.Process.memory_info

    def watched(self: psutil.Process):
        info = memory_info(self)
        seen[0] = max(seen[0], info.rss)
        return info

    monkeypatch.setattr(process.psutil.Process, "memory_info", watched)
    return seen


@pytest.fixture
def outcome(save, peak: list[int]):
    """Read a file; gives the document or the sentence, and holds both limits."""

    def read(content: bytes | Path) -> Document | str:
        path = content if isinstance(content, Path) else save("a.pdf", content)
        start = time.monotonic()
        try:
            return FileReader().extract(path)
        except DocumentError as error:
            return str(error)
        finally:
            assert time.monotonic() - start < MAX_S
            assert 0 < peak[0] < MAX_BYTES

    return read


@pytest.mark.parametrize("name", ["flate_bomb.pdf", "self_referring_form.pdf"])
def test_known_bombs_are_read_or_refused_within_the_limits(outcome, name: str) -> None:
    result = outcome(PDFS / name)
    assert isinstance(result, Document) or "was stopped" in result


OPERATORS = b"BT /F1 9 Tf (aaaaaaa) Tj ET "
TEN_TIMES = b"/X Do " * 10
LAST_FORM: Body = ("/Type /XObject /Subtype /Form /BBox [0 0 612 792]", HELLO)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(one_page(bomb(b"\n", 2 * 10**9)), id="blanks"),
        pytest.param(one_page(bomb(b"\n", 2 * 10**9, times=3)), id="packed three times"),
        pytest.param(one_page(bomb(OPERATORS, 10**9)), id="text"),
        pytest.param(one_page(bomb(b"q ", 10**9)), id="states"),
        pytest.param(
            one_page(
                more={
                    3: "<< /Type /Font /Subtype /TrueType /BaseFont /X /FontDescriptor 7 0 R >>",
                    7: "<< /Type /FontDescriptor /FontName /X /Flags 4 /FontFile2 8 0 R >>",
                    8: bomb(b"\0", 2 * 10**9),
                }
            ),
            id="font",
        ),
        pytest.param(
            one_page(
                more={
                    3: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 7 0 R >>",
                    7: bomb(b"1 beginbfrange <0000> <ffff> <0041> endbfrange ", 10**9),
                }
            ),
            id="map of a font",
        ),
        pytest.param(
            one_page(
                page="/Annots [9 0 R]",
                more={
                    9: STAMP.format(10),
                    10: bomb(b"\n", 2 * 10**9, entries="/Subtype /Form /BBox [0 0 300 300]"),
                },
            ),
            id="stamp",
        ),
        pytest.param(
            one_page(("", b"/X Do"), more=forms_in_forms(6, [7, 8, 6], b"/X Do /X Do")),
            id="three forms that draw each other",
        ),
        pytest.param(
            one_page(
                ("", b"/X Do"),
                more={**forms_in_forms(6, range(7, 18), TEN_TIMES), 17: LAST_FORM},
            ),
            id="forms that draw ten each",
        ),
        pytest.param(
            one_page(
                page="/Annots [9 0 R]",
                more={9: STAMP.format(6), **forms_in_forms(6, [7, 6], b"/X Do /X Do")},
            ),
            id="a stamp that draws itself",
        ),
        pytest.param(packed_objects(places=2 * 10**9), id="table of places"),
        pytest.param(packed_objects(blanks=2 * 10**9), id="packed objects"),
    ],
)
def test_what_unpacks_without_end_is_stopped(outcome, content: bytes) -> None:
    assert len(content) < 5_000_000
    result = outcome(content)
    assert isinstance(result, str)
    assert "was stopped" in result


WIDGET = "<< /Type /Annot /Subtype /Widget /Rect [100 600 300 620] "


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(one_page(page=f"/Odd {'[' * 50_000}{']' * 50_000}"), id="deep arrays"),
        pytest.param(one_page(page=f"/Odd {'<</A ' * 50_000}1{'>>' * 50_000}"), id="deep entries"),
        pytest.param(one_page(page="/MediaBox [-1e30 -1e30 1e38 1e38]"), id="a huge page"),
        pytest.param(one_page(page="/MediaBox [0 0 0 0] /UserUnit 1e30 /Rotate 45"), id="no area"),
        pytest.param(one_page().replace(b"/Size 6", b"/Size 2147483647"), id="two billion objects"),
        pytest.param(
            one_page(pages="<< /Type /Pages /Kids [4 0 R] /Count 2000000000 >>"), id="count"
        ),
        pytest.param(one_page(pages="<< /Type /Pages /Kids [4 0 R] /Count -5 >>"), id="minus five"),
        pytest.param(one_page(pages="<< /Type /Pages /Kids [4 0 R 2 0 R] /Count 5 >>"), id="tree"),
        pytest.param(
            one_page(
                page="/Annots [9 0 R]",
                catalog="/AcroForm << /Fields [9 0 R 10 0 R] >>",
                more={
                    9: f"{WIDGET} /FT /Tx /T (a) /Kids [10 0 R] /Parent 11 0 R >>",
                    10: "<< /Kids [11 0 R] /Parent 9 0 R /T (b) >>",
                    11: "<< /Kids [9 0 R] /Parent 10 0 R /T (c) >>",
                },
            ),
            id="fields that are their own parents",
        ),
        pytest.param(
            one_page(page=f"/Annots [{'9 0 R ' * 100_000}]", more={9: "<< /Subtype /FreeText >>"}),
            id="a hundred thousand notes",
        ),
        pytest.param(
            one_page(
                ("", HELLO + b" q 612 0 0 792 0 0 cm /X Do Q"),
                more={
                    6: (
                        "/Type /XObject /Subtype /Image /Width 60000 /Height 60000 "
                        "/ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /FlateDecode",
                        packed(b"\0", 10**9),
                    )
                },
            ),
            id="a picture of ten gigabytes",
        ),
        pytest.param(packed_objects(), id="nothing odd, packed"),
        pytest.param(packed_objects(prev=True), id="a table that follows itself"),
        pytest.param(packed_objects(holder=2), id="packed in itself"),
        pytest.param(packed_objects(entries="/Index [0 4000000000]"), id="four billion places"),
    ],
)
def test_senseless_files_lose_no_text(outcome, content: bytes) -> None:
    document = outcome(content)
    assert isinstance(document, Document)
    assert document.pages[0].text == "Hello"


def test_a_page_tree_in_a_circle_is_refused(outcome) -> None:
    circle = {
        6: "<< /Type /Pages /Kids [7 0 R] /Count 5 /Parent 2 0 R >>",
        7: "<< /Type /Pages /Kids [2 0 R] /Count 5 /Parent 6 0 R >>",
    }
    pages = "<< /Type /Pages /Kids [6 0 R] /Count 5 >>"
    assert "broken" in outcome(one_page(pages=pages, more=circle))


def test_no_pages_are_refused(outcome) -> None:
    assert "broken" in outcome(one_page(pages="<< /Type /Pages /Kids [] /Count 0 >>"))


def test_a_hundred_thousand_pages_are_refused_with_their_number(outcome) -> None:
    kids = "4 0 R " * 100_000
    result = outcome(one_page(pages=f"<< /Type /Pages /Kids [{kids}] /Count 100000 >>"))
    assert result.startswith("The PDF has 100000 pages; up to 10000")


def test_many_slow_pages_take_no_more_time_than_one_file_may(
    outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_START_S", 3.0)
    slow = bomb(b"0 0 m 9 9 l S ", 4_000_000)
    kids = "4 0 R " * 10_000
    result = outcome(one_page(slow, pages=f"<< /Type /Pages /Kids [{kids}] /Count 10000 >>"))
    assert "took too long and was stopped" in result


def test_a_bomb_on_one_page_leaves_the_others(outcome) -> None:
    content = one_page(
        pages="<< /Type /Pages /Kids [4 0 R 50 0 R 51 0 R] /Count 3 >>",
        more={
            50: "<< /Type /Page /Parent 2 0 R /Contents 52 0 R /MediaBox [0 0 612 792] >>",
            51: "<< /Type /Page /Parent 2 0 R /Contents 5 0 R /MediaBox [0 0 612 792] "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            52: bomb(b"q ", 2 * 10**9),
        },
    )
    document = outcome(content)
    assert [page.text for page in document.pages] == ["Hello", "", "Hello"]
    assert document.broken_pages == (2,)


def test_four_bombs_at_once_take_the_memory_of_one() -> None:
    reader, told, most, most_bytes = FileReader(), [], 0, 0

    def read(name: str) -> None:
        try:
            told.append(str(reader.extract(PDFS / name)))
        except DocumentError as error:
            told.append(str(error))

    names = ["self_referring_form.pdf", "flate_bomb.pdf"] * 2
    threads = [threading.Thread(target=read, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        sizes = []
        for child in reader_processes():
            with contextlib.suppress(psutil.Error):
                sizes.append(child.memory_info().rss)
        most, most_bytes = max(most, len(sizes)), max(most_bytes, sum(sizes))
        time.sleep(0.02)
    assert len(told) == 4
    assert all("was stopped" in sentence for sentence in told)
    assert most == 1
    assert most_bytes < MAX_BYTES
