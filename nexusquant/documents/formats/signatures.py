"""What a file is by its first bytes, and what its name promised: refuses what cannot be read.

Knows first bytes and suffixes. Must not know how anything is read.
"""

from __future__ import annotations

import re

from nexusquant.errors import DocumentError

_SAVE_AS = "Save it as PDF or plain text."
_CONVERT = f"which cannot be read yet. {_SAVE_AS}"
_NOT_TEXT = "which holds no text to read. Choose the document itself."
_UNPACK = "which cannot be read as it is. Unpack it and open the file you need."
_DAMAGED = "Check that it was copied or downloaded completely."
# first bytes, what they are, what to do
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0", "an old Office file", _CONVERT),
    (b"{\\rtf", "a rich-text file", _CONVERT),
    (b"\x89PNG", "a picture", "which needs text recognition (OCR) first."),
    (b"\xff\xd8\xff", "a picture", "which needs text recognition (OCR) first."),
    (b"GIF87a", "a picture", "which needs text recognition (OCR) first."),
    (b"GIF89a", "a picture", "which needs text recognition (OCR) first."),
    (b"II*\x00", "a picture", "which needs text recognition (OCR) first."),
    (b"MM\x00*", "a picture", "which needs text recognition (OCR) first."),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"\x7fELF", "a program", _NOT_TEXT),
    (b"\xcf\xfa\xed\xfe", "a program", _NOT_TEXT),
    (b"\xca\xfe\xba\xbe", "a program", _NOT_TEXT),
    (b"\x00asm", "a program", _NOT_TEXT),
    (b"OggS", "a sound or video file", _NOT_TEXT),
    (b"ID3", "a sound file", _NOT_TEXT),
    (b"fLaC", "a sound file", _NOT_TEXT),
    (b"SQLite format 3\x00", "a database", _NOT_TEXT),
    (b"wOFF", "a font", _NOT_TEXT),
    (b"GGUF", "a model's weights", _NOT_TEXT),
)
# these letters also begin words, so that more than they must be no text
_ALSO_WORDS = (b"BZh", b"ID3", b"OggS", b"fLaC", b"GGUF", b"wOFF")
_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# what the first entries of a zip archive are called, by the program that wrote it
_ZIPPED = (
    (b"word/", "a Word file"),
    (b"xl/", "a spreadsheet"),
    (b"ppt/", "a presentation"),
    (b"application/epub", "an EPUB book"),
    (b"vnd.oasis.opendocument", "an OpenDocument file"),
    (b"META-INF/MANIFEST", "a Java program"),
)
# what files with these suffixes are: zip archives, and old Office files
_NEW_OFFICE = {
    ".docx": "a Word file",
    ".docm": "a Word file",
    ".xlsx": "a spreadsheet",
    ".pptx": "a presentation",
    ".odt": "an OpenDocument file",
    ".ods": "a spreadsheet",
    ".odp": "a presentation",
    ".epub": "an EPUB book",
    ".pages": "a Pages file",
    ".zip": "a zip archive",
}
_OLD_OFFICE = {".doc": "a Word file", ".xls": "a spreadsheet", ".ppt": "a presentation"}
_SHORTEST_ZIP = 22
_PDF = re.compile(rb"(?:\A\s{0,9}|[\r\n])%PDF-\d")


def is_pdf(head: bytes, suffix: str) -> bool:
    """Tell whether a file is a PDF; readers of PDFs accept bytes in front of its mark.

    Args:
        head: The first bytes of the file.
        suffix: Of its name, with the dot, in small letters.
    """
    return b"%PDF-" in head if suffix == ".pdf" else bool(_PDF.search(head))


def refuse_other_formats(head: bytes, num_bytes: int, name: str, suffix: str) -> None:
    """Refuse what is no text, if the first bytes tell.

    Args:
        head: The first bytes of the file.
        num_bytes: Size of the file.
        name: For messages.
        suffix: Of the name, with the dot, in small letters.

    Raises:
        DocumentError: The file is something else, or damaged.
    """
    found = _found(head)
    promised = {".pdf": "a PDF", **_NEW_OFFICE, **_OLD_OFFICE}.get(suffix)
    if found is None and promised:
        raise DocumentError(_broken_promise(head, num_bytes, name, suffix, promised))
    if found is None:
        return
    what, advice = found
    if suffix == ".pdf":
        raise DocumentError(f"{name} is called a PDF but is none: it is {what}, {advice}")
    raise DocumentError(f"{name} is {what}, {advice}")


def _found(head: bytes) -> tuple[str, str] | None:
    if head.startswith(_ZIP_MARKS):
        for mark, what in _ZIPPED:
            if mark in head:
                return what, _CONVERT
        return "a zip archive, such as a Word, EPUB or spreadsheet file", _CONVERT
    for mark, what, advice in _SIGNATURES:
        if head.startswith(mark) and (mark not in _ALSO_WORDS or _has_controls(head)):
            return what, advice
    if head.startswith(b"MZ") and _has_controls(head):
        return "a program", _NOT_TEXT
    if (head[:4] == b"RIFF" and _has_controls(head)) or head[4:8] == b"ftyp":
        return "a picture, sound or video file", _NOT_TEXT
    return None


def _has_controls(head: bytes) -> bool:
    return len(head.translate(None, bytes([*range(9), *range(14, 27)]))) < len(head)


def _broken_promise(head: bytes, num_bytes: int, name: str, suffix: str, promised: str) -> str:
    if suffix in _NEW_OFFICE and num_bytes < _SHORTEST_ZIP:
        one, many = "1 byte", f"{num_bytes} bytes"
        size = one if num_bytes == 1 else many
        return f"{name} has {size}, which is too short for {promised}. {_DAMAGED}"
    called = f"{name} is called {promised} but is none"
    if _has_controls(head):
        return f"{called}, or is damaged. {_DAMAGED}"
    if b"<html" in head.lower() or b"<!doctype html" in head.lower():
        return (
            f"{called}: it is a web page, perhaps an error message of the site. {_DAMAGED} To read "
            "the page itself, change the end of its name to .html."
        )
    return f"{called}. {_DAMAGED} If it is a plain text, change the end of its name to .txt."
