"""Hostile files that are no PDFs: damaged, lying, endless, deep, in odd encodings.

Knows what may come back: pages of text, or one clear sentence. Must not know how files are read.
"""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from attempt import Attempt

from nexusquant.documents import Document
from nexusquant.documents.extract import FileReader
from nexusquant.errors import DocumentError

_SUFFIXES = [
    ".txt",
    ".log",
    ".csv",
    ".md",
    ".py",
    ".html",
    ".htm",
    ".xhtml",
    ".eml",
    ".mht",
    ".ipynb",
    ".json",
    ".xml",
    ".docx",
    ".doc",
    ".xlsx",
    ".zip",
    ".pdf",
    ".epub",
    ".exe",
    ".bin",
    ".rtf",
    ".tex",
]
_WORDS = [
    "mill",
    "canal",
    "Größe",
    "naïve",
    "Łódź",
    "мельница",
    "μύλος",
    "טחנה",
    "طاحونة",
    "磨坊",
    "水車",
    "물레방아",
    "โรงสี",
    "😀",
    "﷽",
    "á",
    "\u202e",
    "\ufeff",
    "\x00",
    "\x1b[31m",
    "\x07",
    "\ud83d",
    "\uffff",
    "0",
    "-1",
    "1e999",
    "NaN",
]
_CODECS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-32-be",
    "utf-7",
    "cp1252",
    "cp1250",
    "cp1251",
    "koi8-r",
    "mac-roman",
    "iso8859-2",
    "iso8859-7",
    "iso8859-9",
    "big5hkscs",
    "gb18030",
    "hz",
    "cp932",
    "euc_jp",
    "iso2022_jp",
    "iso2022_kr",
    "euc_kr",
    "cp037",
    "cp437",
    "cp1026",
]
_MARKS = (
    b"PK\x03\x04 PK\x05\x06 %PDF-1.7\n \xd0\xcf\x11\xe0 \x89PNG \xff\xd8\xff MZ \x7fELF "
    b"\x1f\x8b\x08 {\\rtf1 \xef\xbb\xbf \xff\xfe \xfe\xff \xff\xfe\x00\x00 "
    b"\x00\x00\xfe\xff <html> From:"
).split(b" ")
_TAGS = [
    "p",
    "div",
    "b",
    "table",
    "tr",
    "td",
    "li",
    "ul",
    "script",
    "style",
    "title",
    "svg",
    "select",
    "option",
    "pre",
    "textarea",
    "math",
    "a",
]
_MAX_SENTENCE = 500


def attempts(rng: random.Random, count: int, folder: Path) -> Iterator[Attempt]:
    """Make files of all kinds; each is read as a guest's upload would be.

    Args:
        rng: Everything is drawn from it.
        count: How many.
        folder: Where the files are written; each is removed after its attempt.
    """
    reader = FileReader()
    for number in range(count):
        kind = rng.choice(_KINDS)
        content = kind(rng)
        if rng.random() < 0.4:
            content = _damaged(rng, content)
        suffix = rng.choice(_SUFFIXES) if rng.random() < 0.5 else _USUAL.get(kind, ".txt")
        name = f"{number}-{kind.__name__.strip('_')}{suffix}"
        yield Attempt(name, _attempt(reader, folder / name, content))


def _attempt(reader: FileReader, path: Path, content: bytes) -> Callable[[], str]:
    def run() -> str:
        path.write_bytes(content)
        try:
            document = reader.extract(path)
        except DocumentError as error:
            _check_sentence(str(error))
            return "refused"
        finally:
            path.unlink()
        _check_document(document, content)
        return "right"

    return run


def _check_sentence(sentence: str) -> None:
    assert sentence.endswith("."), sentence
    assert 10 < len(sentence) < _MAX_SENTENCE, sentence
    assert "Error" not in sentence and "Traceback" not in sentence, sentence
    # what reads damages in a way that ends the reader is a fault of the reader
    assert "in a way that ends the reader" not in sentence, sentence


def _check_document(document: Document, content: bytes) -> None:
    assert document.pages, "no pages"
    assert any(page.text.strip() for page in document.pages), "nothing but blanks"
    assert [page.number for page in document.pages] == [*range(1, len(document.pages) + 1)]
    for page in document.pages:
        page.text.encode()
        assert "\0" not in page.text, "a zero in the text"
    lines = [page.first_line for page in document.pages if page.first_line is not None]
    assert lines == sorted(lines), lines
    for note in document.notes:
        _check_sentence(note)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    if document.kind == "code" and not document.notes and not document.name.endswith(".ipynb"):
        wanted = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        found = "".join(page.text for page in document.pages)
        assert found == wanted.replace("\0", "\ufffd"), "a source that is not what it was"


def _damaged(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 30))):
        if not data:
            break
        place = rng.randrange(len(data))
        action = rng.randrange(5)
        if action == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[place] = rng.choice((0, 10, 27, 0x80, 0xC3, 0xFF, rng.randrange(256)))
        elif action == 2:
            del data[place:]
        elif action == 3:
            del data[place : place + rng.randrange(1, 9)]
        else:
            data[place:place] = rng.choice((b"\x00", b"\xff\xfe", b"\r", rng.randbytes(5)))
    return bytes(data)


def _text(rng: random.Random) -> str:
    size = rng.choice((1, 5, 50, 500, 5000))
    ends = rng.choice((" ", "\n", "\r\n", "\r", "", "\t", "\u2028"))
    words = rng.choices(_WORDS[: rng.choice((2, 5, 15, len(_WORDS)))], k=size)
    return "".join(word + (ends if rng.random() < 0.3 else " ") for word in words)


def _in_any_encoding(rng: random.Random) -> bytes:
    codec = rng.choice(_CODECS)
    return (
        _text(rng)
        .encode("utf-16", "surrogatepass")
        .decode("utf-16", "replace")
        .encode(codec, "replace")
    )


def _two_encodings(rng: random.Random) -> bytes:
    return _in_any_encoding(rng) + _in_any_encoding(rng)


def _binary(rng: random.Random) -> bytes:
    size = rng.choice((0, 1, 2, 3, 4, 100, 10_000, 300_000))
    alphabet = rng.choice((range(256), range(128, 256), range(32), b"\x00\x01", b"\xff", b" \n"))
    return bytes(rng.choices(alphabet, k=size))


def _marked(rng: random.Random) -> bytes:
    return rng.choice(_MARKS) + rng.choice((_binary, _in_any_encoding))(rng)


def _packed(rng: random.Random) -> bytes:
    return zlib.compress(bytes(rng.choice((100, 10**7))), 9, wbits=rng.choice((15, 31, -15)))


def _one_line(rng: random.Random) -> bytes:
    return rng.choice(_WORDS[:15]).encode() * rng.choice((1000, 200_000))


def _base64_text(rng: random.Random) -> bytes:
    data = rng.randbytes(rng.choice((100, 900, 50_000)))
    form = rng.choice((base64.b64encode, base64.encodebytes, base64.urlsafe_b64encode))
    return b"before\n" + rng.choice((b"", b"data:image/png;base64,")) + form(data) + b"\nafter\n"


def _markup(rng: random.Random) -> bytes:
    parts = []
    for _ in range(rng.choice((1, 20, 300, 5000))):
        tag = rng.choice(_TAGS)
        parts.append(
            rng.choice(
                (
                    f"<{tag}>",
                    f"</{tag}>",
                    f"<{tag} hidden style='display:none'>",
                    f'<{tag} a="{rng.choice(_WORDS[:12])}',
                    "<!--",
                    "-->",
                    "<![CDATA[",
                    "<!DOCTYPE x [<!ENTITY a '&a;&a;'>]>",
                    "<?xml version='1.0' encoding='utf-7'?>",
                    "<![foo[",
                    "&#xD800;",
                    "&#99999999999;",
                    "&lt",
                    "<",
                    "<meta charset='cp1252'>",
                    rng.choice(_WORDS[:15]),
                )
            )
        )
    if rng.random() < 0.2:
        parts.append(rng.choice(("<div>", "<!--", "<a ", "&", "<![")) * 50_000)
    return b"<html>" + "".join(parts).encode("utf-8", "replace")


def _mail(rng: random.Random) -> bytes:
    charset = rng.choice((*_CODECS, "x-unknown", "base64", "", "\x00", "idna", "zip", "rot13"))
    coding = rng.choice(("base64", "quoted-printable", "8bit", "x-uuencode", "odd", "7bit"))
    kinds = ("text/plain", "text/html", "message/rfc822", "a", "multipart/mixed; boundary=b")
    kind = rng.choice((*kinds, "multipart/alternative; boundary=b", "text/plain; name*0*=utf-8''%"))
    body = rng.choice((_in_any_encoding, _base64_text, _markup, _binary))(rng)
    word = rng.choice(("=?utf-8?q?=C3=BC?=", "=?x?b?////?=", "=?utf-8?b?w?=", "\udcff", "a" * 9000))
    head = (
        f"From: {word} <a@b\nTo: {'(' * rng.choice((0, 1, 3000))}\nSubject: {word}\n"
        f"Date: {rng.choice(('x', 'Mon, 99 Foo 99999', ''))}\nContent-Type: {kind}; "
        f"charset={charset}\nContent-Transfer-Encoding: {coding}\n"
        f"Content-Disposition: {rng.choice(('inline', 'attachment; filename==?', '; ; ='))}\n\n"
    )
    parts = b"".join(
        b"--b\nContent-Type: " + rng.choice(kinds).encode() + b"\n\n" + body + b"\n"
        for _ in range(rng.choice((0, 1, 200 if len(body) < 2000 else 3)))
    )
    return head.encode("ascii", "surrogateescape") + (parts or body)


def _deep_mail(rng: random.Random) -> bytes:
    depth = rng.choice((5, 100, 3000))
    inner = "Content-Type: message/rfc822\n\n" if rng.random() < 0.5 else None
    if inner:
        return b"From: a\n" + (inner * depth).encode() + b"x"
    return b"From: a\n" + b"".join(
        f"Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n".encode()
        for level in range(depth)
    )


def _notebook(rng: random.Random) -> bytes:
    odd = (None, 1, -1e308, "x", [], {}, ["a", 1, None], {"text/plain": [1]}, "\ud800", True)
    cells = [
        {
            "cell_type": rng.choice(("code", "markdown", "raw", "heading", *odd[:6])),
            "source": rng.choice((*odd, ["a\n", "b"], _text(rng))),
            "outputs": rng.choice(
                (
                    *odd,
                    [{"output_type": "stream", "text": rng.choice(odd)}],
                    [{"output_type": "error", "traceback": rng.choice(odd)}],
                    [{"data": {"text/html": "<p>" * 500, "image/png": "A" * 5000}}],
                )
            ),
            "execution_count": rng.choice((*odd, 10**30)),
        }
        for _ in range(rng.choice((0, 1, 20)))
    ]
    whole = rng.choice(({"cells": cells}, {"worksheets": [{"cells": cells}]}, cells, {"cells": 1}))
    return json.dumps(whole).encode()


def _deep_notebook(rng: random.Random) -> bytes:
    return b'{"cells":' + rng.choice((b"[", b'{"a":')) * rng.choice((10, 500, 200_000))


_KINDS = (
    _in_any_encoding,
    _two_encodings,
    _binary,
    _marked,
    _packed,
    _one_line,
    _base64_text,
    _markup,
    _mail,
    _mail,
    _deep_mail,
    _notebook,
    _notebook,
    _deep_notebook,
)
_USUAL = {
    _markup: ".html",
    _mail: ".eml",
    _deep_mail: ".eml",
    _notebook: ".ipynb",
    _deep_notebook: ".ipynb",
}
