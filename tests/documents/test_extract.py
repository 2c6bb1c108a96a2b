"""Text files: decoded rightly or refused with a sentence, and cut into pages without a loss."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusquant.documents import extract
from nexusquant.documents.formats.encoded_data import Piece
from nexusquant.documents.formats.paging import cut
from nexusquant.errors import DocumentError

TEXT = "Grüße, naïve café\nsecond – line\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_usual_encodings_are_recognised(save, encoding: str) -> None:
    assert extract(save("a.txt", TEXT.encode(encoding))).pages[0].text == TEXT


def test_line_ends_of_every_system_become_one(save) -> None:
    assert extract(save("a.txt", b"a\r\nb\rc\n")).pages[0].text == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text"),
        ("a.LOG", "text"),
        ("README", "text"),
        ("a.md", "markdown"),
        ("a.py", "code"),
        ("a.cpp", "code"),
    ],
)
def test_kind_follows_the_name(save, name: str, kind: str) -> None:
    assert extract(save(name, b"some text")).kind == kind


def test_sha256_is_that_of_the_file(save) -> None:
    content = b"line\r\n" * 1000
    assert extract(save("a.txt", content)).sha256 == hashlib.sha256(content).hexdigest()


@given(st.text(alphabet="ab \n", max_size=20_000))
def test_pages_put_together_are_the_whole_text(text: str) -> None:
    assert "".join(page.text for page in cut([Piece(text)])) == text


def test_pages_end_at_line_ends_and_are_of_one_size(save) -> None:
    lines = "".join(f"line {number} of a long file\n" for number in range(1000))
    pages = extract(save("a.txt", lines.encode())).pages
    assert [page.number for page in pages] == list(range(1, len(pages) + 1))
    assert all(page.text.endswith("\n") for page in pages)
    assert all(2900 < len(page.text) <= 3000 for page in pages[:-1])


def test_a_line_longer_than_a_page_is_cut_between_words(save) -> None:
    pages = extract(save("a.txt", b"word " * 2000)).pages
    assert len(pages) == 4
    assert all(set(page.text.split()) == {"word"} for page in pages)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t\n", "nothing but blanks"),
        ("a.bin", b"\x7fELF\x00\x01", "is a program, which holds no text"),
        ("a.bin", bytes(range(256)) * 9, "is not a text file"),
        ("a.txt", b"text with a \x00 in it", "is not a text file"),
        ("a.txt", "text \0".encode("utf-16"), "is not a text file"),
        ("a.txt", b"\x01\x02\x03\x04 text", "is not a text file"),
        ("a.txt", b"\xff\xfea", "is not a text file"),
        ("a.txt", b"\xff" * 5000, "is not a text file"),
        ("a.docx", b"PK\x03\x04rest", "Save it as PDF or plain text"),
        ("a.png", b"\x89PNG\r\n", "is a picture"),
        ("a.pdf", b"<html>404</html>", "is called a PDF but is none"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(
    save, name: str, content: bytes, sentence: str
) -> None:
    with pytest.raises(DocumentError, match=sentence):
        extract(save(name, content))


def test_a_missing_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"gone\.txt cannot be opened"):
        extract(tmp_path / "gone.txt")


def test_a_folder_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be opened"):
        extract(tmp_path)


def test_a_file_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(201_000_000)
    with pytest.raises(DocumentError, match="201 MB; files up to 200 MB"):
        extract(path)
