"""Web pages, mails, notebooks and data inside texts: what a person reads of them, and no more."""

from __future__ import annotations

import base64
import email.message
import json
import random
from pathlib import Path

import pytest

from nexusquant.documents import extract
from nexusquant.documents.formats.html_page import html_text
from nexusquant.documents.formats.mail import mail_text
from nexusquant.errors import DocumentError

FILES = Path(__file__).parent.parent / "files"
NOISE = base64.b64encode(random.Random(1).randbytes(60_000)).decode()


def shown(markup: str) -> str:
    return "".join(html_text([markup]))


def read(path: Path) -> str:
    return "".join(page.text for page in extract(path).pages)


# ---- web pages


def test_a_page_is_its_text_without_styles_and_scripts(save) -> None:
    styles = "".join(f".c{number}{{margin:{number}px}}" for number in range(500))
    page = (
        f"<!DOCTYPE html><html><head><title>Ferry times</title><style>{styles}</style>"
        "<script>var v1 = '<b>1</b>';</script></head><body><!-- note --><p>The last ferry to "
        "Hov leaves\nat 21:40 &amp; does not wait.</p></body></html>"
    )
    for name in ("a.html", "a.htm", "a.txt", "a.doc"):
        assert read(save(name, page.encode())) == (
            "Ferry times\n\nThe last ferry to Hov leaves at 21:40 & does not wait.\n\n"
        )


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<ul><li>one<li>two &lt;x&gt;</ul>", "- one\n- two <x>\n\n"),
        ("<table><tr><td>1<td>2<tr><td>3</table>", "1\t2\n3\n\n"),
        ("a<br>b<br/>c", "a\nb\nc\n"),
        ("<p hidden>x<p>y", "y\n\n"),
        ("<div style='display : none'><p>x</div>y", "y\n"),
        ("<span style='font-size:0'>ignore all</span>y", "y\n"),
        ("<p style='opacity: 0.5'>y", "y\n\n"),
        ("<li hidden>x<li>y", "- y\n"),
        ("<input hidden>y", "y\n"),
        ("<script>if (a < b) '</p>'</script>y", "y\n"),
        ("<noscript>switch it on</noscript>y", "y\n"),
        ("<pre>a\n  b</pre>", "a\n  b\n\n"),
        ("&euro; &#228; &#x1F600; &nope; &#xD800;", "€ ä 😀 &nope; \ufffd\n"),
        ("<input type=checkbox checked>Storm<input type=radio>Flood", "[x] Storm[ ] Flood\n"),
        ("<input value='Hedda Lunding'>", "Hedda Lunding\n"),
        ("<input type=hidden value=secret>y", "y\n"),
        ("<select><option>red<option selected>blue</select>", "red\n[x] blue\n"),
        ("<![if !IE]>y<![endif]><!ELEMENT x>", "y\n"),
        ("5 < 6 and <b>7", "5 < 6 and 7\n"),
        ("y<!-- never closed", "y\n"),
        ("<a href='x'>link</a> <img src='data:image/png;base64,AAAA'>", "link\n"),
    ],
)
def test_markup_becomes_what_is_shown(markup: str, text: str) -> None:
    assert shown(markup) == text


def test_the_encoding_that_a_page_names_is_taken(save) -> None:
    page = "<meta charset=koi8-r><p>Мельница стоит"
    assert read(save("a.html", page.encode("koi8-r"))).strip() == "Мельница стоит"


# ---- mails


def test_an_encoded_mail_is_read_with_its_subject() -> None:
    text = read(FILES / "mail_base64_body.eml")
    assert "Subject: Anlieferung für die Werft" in text
    assert "From: office@example.org" in text
    assert "Planken kommen am Dienstag" in text


def mail(**parts: str) -> email.message.EmailMessage:
    message = email.message.EmailMessage()
    message["From"] = "Zoë <zoe@example.org>"
    message["Subject"] = "Größe"
    message["Date"] = "Mon, 02 Mar 2020 10:00:00 +0100"
    for kind, text in parts.items():
        (
            message.add_alternative
            if message.get_content_type() != "text/plain" or message.get_payload()
            else message.set_content
        )(text, subtype=kind)
    return message


def test_a_page_in_a_mail_is_read_as_text() -> None:
    text = mail_text(mail(html="<style>x</style><p>Öl &amp; Holz</p>").as_bytes())[0]
    assert text.endswith("Subject: Größe\n\nÖl & Holz\n")
    assert "Date: Mon, 02 Mar 2020" in text


def test_of_two_forms_of_a_text_the_plain_one_is_read() -> None:
    text = mail_text(mail(plain="the plain one", html="<p>the other").as_bytes())[0]
    assert "the plain one" in text
    assert "the other" not in text


def test_attachments_are_named_and_not_read(save) -> None:
    message = mail(plain="see below")
    message.add_attachment(b"\x00" * 5000, maintype="application", subtype="pdf", filename="ä.pdf")
    document = extract(save("a.eml", message.as_bytes()))
    text = document.pages[0].text
    assert "see below" in text
    assert "[Attachment: ä.pdf (application/pdf, 5,000 bytes)]" in text
    assert "not read" in document.notes[0]


def test_a_mail_in_a_mail_is_read() -> None:
    message = mail(plain="outer")
    message.add_attachment(mail(plain="inner"))
    text = mail_text(message.as_bytes())[0]
    assert text.index("outer") < text.index("Attached mail") < text.index("inner")


@pytest.mark.parametrize("charset", ["koi8-r", "windows-1251", "no-such-charset"])
def test_a_body_in_any_encoding_is_read(charset: str) -> None:
    codec = "koi8-r" if charset == "koi8-r" else "cp1251"
    head = f"From: a@b\nSubject: x\nContent-Type: text/plain; charset={charset}\n\n"
    data = head.encode() + "Мельница стоит у канала".encode(codec)
    assert "Мельница стоит у канала" in mail_text(data)[0]


def test_encoded_words_in_any_encoding_are_read() -> None:
    word = base64.b64encode("Мельница стоит".encode("koi8-r")).decode()
    assert (
        "Subject: Мельница стоит\n" in mail_text(f"Subject: =?koi8-r?B?{word}?=\n\nx".encode())[0]
    )


def test_a_text_that_is_called_a_mail_is_read_as_text(save) -> None:
    assert read(save("a.eml", b"no mail at all\n")) == "no mail at all\n"


# ---- notebooks


def notebook(cells: list[dict]) -> bytes:
    return json.dumps({"cells": cells, "nbformat": 4}).encode()


def test_a_notebook_is_its_cells_and_text_outputs(save) -> None:
    picture = {"output_type": "display_data", "data": {"image/png": NOISE}}
    shown_too = {"output_type": "execute_result", "data": {"text/plain": ["42"], "image/png": "x"}}
    stream = {"output_type": "stream", "text": ["\x1b[31m800\x1b[0m\n"]}
    cells = [
        {"cell_type": "markdown", "source": ["# Yield\n", "Three trees were cut."]},
        {
            "cell_type": "code",
            "execution_count": 1,
            "source": "total = 412 + 388",
            "outputs": [stream, picture, shown_too],
        },
    ]
    assert read(save("a.ipynb", notebook(cells))) == (
        "# Yield\nThree trees were cut.\n\nIn [1]:\ntotal = 412 + 388\n\n"
        "Out [1]:\n800\n[image/png left out]\n42\n"
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"cells": [', "damaged notebook"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{}", "no notebook cells"),
        (b"[1]", "no notebook cells"),
    ],
)
def test_a_damaged_notebook_is_refused_with_a_sentence(save, content, sentence) -> None:
    with pytest.raises(DocumentError, match=sentence):
        extract(save("a.ipynb", content))


def test_half_characters_of_a_notebook_are_replaced(save) -> None:
    cells = [{"cell_type": "markdown", "source": "a\ud83d b \ud83d\ude00"}]
    assert read(save("a.ipynb", notebook(cells))) == "a\ufffd b 😀\n"


# ---- data inside texts, lines, names


@pytest.mark.parametrize(
    "text",
    [
        f"before\n![x](data:image/png;base64,{NOISE}) after\n",
        f"before\n{NOISE}\nafter\n",
        "before\n" + base64.encodebytes(base64.b64decode(NOISE)).decode() + "after\n",
    ],
)
def test_encoded_data_is_left_out_and_told(save, text: str) -> None:
    document = extract(save("a.md", text.encode()))
    assert len(document.pages) == 1
    assert "before\n" in document.pages[0].text
    assert "after\n" in document.pages[0].text
    assert "characters of encoded data left out]" in document.pages[0].text
    assert "Left out encoded data" in document.notes[0]


@pytest.mark.parametrize("text", ["ACGT" * 900, "0123456789abcdef" * 200, "word " * 500])
def test_long_runs_that_are_no_data_stay(save, text: str) -> None:
    assert read(save("a.txt", text.encode())) == text


def test_pages_of_source_know_their_first_line(save) -> None:
    wrapped = base64.encodebytes(base64.b64decode(NOISE)).decode()
    lines = [f"x{number} = {number}" for number in range(1500)]
    source = "\n".join(lines[:700]) + "\n" + wrapped + "\n".join(lines[700:])
    numbered = source.split("\n")
    pages = extract(save("a.py", source.encode())).pages
    assert pages[0].first_line == 1
    for page in pages[1:]:
        assert numbered[page.first_line - 1] == page.text.split("\n")[0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.docx", b"x", "has 1 byte, which is too short for a Word file"),
        ("a.docx", b"plain words that are no archive", "called a Word file but is none"),
        ("a.docx", b"PK\x03\x04\x00\x00[Content_Types].xml word/document.xml", "is a Word file"),
        ("a.txt", b"PK\x03\x04\x00\x00\x00\x00", "is a zip archive"),
        ("a.zip", b"PK\x05\x06" + bytes(18), "is a zip archive"),
        ("a.txt", b"MZ\x90\x00\x03\x00", "is a program"),
        ("a.pdf", b"just words, no PDF", "called a PDF but is none"),
        ("a.pdf", b"<!DOCTYPE html><p>404", "it is a web page"),
        ("a.pdf", b"PK\x03\x04\x00", "called a PDF but is none: it is a zip archive"),
        ("a.pdf", b"\x00\x01\x02" * 50, "or is damaged"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Office file"),
        ("a.txt", b"\x1f\x8b\x08\x00", "is a gzip archive"),
        ("a.txt", b"{\\rtf1 x}", "is a rich-text file"),
    ],
)
def test_what_is_not_as_it_is_called_is_refused_with_a_sentence(
    save, name: str, content: bytes, sentence: str
) -> None:
    with pytest.raises(DocumentError, match=sentence):
        extract(save(name, content))


@pytest.mark.parametrize(
    "text", ["MZ is a prefix", "BZhang wrote this", "ID3 tags", "see %PDF-1.7 below", "PK means"]
)
def test_words_that_look_like_marks_are_text(save, text: str) -> None:
    assert read(save("a.txt", text.encode())) == text


def test_a_hundred_megabytes_of_control_characters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"\x01" * 10**6)
    with pytest.raises(DocumentError, match="is not a text file"):
        extract(path)
