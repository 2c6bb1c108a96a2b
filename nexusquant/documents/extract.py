"""Files to documents: finds out what a file is and calls the right reader.

Knows text encodings and how text is cut into pages. Must not know the engine or PDFium.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nexusquant.documents.document import Document, Page
from nexusquant.documents.pdf import read_pdf
from nexusquant.documents.worker import Reading, Turns
from nexusquant.errors import DocumentError

_MAX_BYTES = 200_000_000
_PAGE_CHARACTERS = 3_000
# readers accept a PDF that has some bytes in front of its mark
_HEAD_BYTES = 1024
_PLAIN_TEXT_SUFFIXES = frozenset({"", ".txt", ".text", ".log", ".csv", ".tsv", ".rst", ".tex"})
_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdx"})
_OTHER_FORMATS = (
    (b"PK\x03\x04", "is a zip archive, such as a Word, EPUB or spreadsheet file"),
    (b"\xd0\xcf\x11\xe0", "is an old Office file"),
    (b"\x89PNG", "is a picture"),
    (b"\xff\xd8\xff", "is a picture"),
    (b"{\\rtf", "is a rich-text file"),
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_CONTROL_SHARE = 0.01


class FileReader:
    """Reads files, one at a time: whoever comes while another file is read waits for a turn.

    One for each app, so that many files at once take no more memory than one.
    """

    def __init__(self) -> None:
        self._turns = Turns()

    def extract(
        self,
        path: Path,
        *,
        password: str | None = None,
        is_wanted: Callable[[], bool] | None = None,
        name: str | None = None,
    ) -> Document:
        """Read a PDF, text, Markdown or source file as pages.

        Pages of a PDF are its own, counted from 1. Other files are cut at line ends into pages of
        about 3,000 characters; put together, those are the whole text.

        Args:
            path: The file.
            password: For a locked PDF.
            is_wanted: Asked about every 0.2 s, in this thread, while waiting and reading; once it
                is False, the reading ends.
            name: What to call the file, if not by the name it lies under.

        Raises:
            PasswordError: A locked PDF; the password is missing or wrong.
            ReadingStoppedError: Nobody wants the document any more.
            DocumentError: Anything else that keeps the file from being read; the message is for
                the user and says what can be done.
        """
        name = name or path.name
        inspected = _inspect(path, name)
        reading = Reading(inspected.num_bytes, is_wanted)
        with self._turns.take(reading.check_wanted):
            if b"%PDF-" in inspected.head:
                return read_pdf(path, name, inspected.sha256, password, reading)
            text = _read_text(path, name, inspected.head)
        pages = tuple(Page(number, part) for number, part in enumerate(_cut(text), start=1))
        return Document(name, _text_kind(Path(name)), pages, inspected.sha256)


def extract(path: Path, *, password: str | None = None) -> Document:
    """Read one file; see `FileReader.extract`, which apps use."""
    return FileReader().extract(path, password=password)


@dataclass(frozen=True)
class _Inspected:
    head: bytes
    num_bytes: int
    sha256: str


def _inspect(path: Path, name: str) -> _Inspected:
    try:
        status = path.stat()
        # devices never end, and a pipe waits for its other side
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError(f"{name} cannot be opened: it is not a file. Choose a file.")
        size = status.st_size
        if size == 0:
            raise DocumentError(f"{name} is empty.")
        if size > _MAX_BYTES:
            raise DocumentError(
                f"{name} has {size // 10**6} MB; files up to {_MAX_BYTES // 10**6} MB can be "
                "opened. Split it and open the part you need."
            )
        digest = hashlib.sha256()
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            digest.update(head)
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DocumentError(f"{name} cannot be opened: {error.strerror}.") from error
    except ValueError as error:
        # a zero byte in the name
        raise DocumentError(f"{name!r} cannot be opened: no file can be called so.") from error
    return _Inspected(head, size, digest.hexdigest())


def _text_kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _MARKDOWN_SUFFIXES:
        return "markdown"
    return "text" if suffix in _PLAIN_TEXT_SUFFIXES else "code"


def _read_text(path: Path, name: str, head: bytes) -> str:
    if name.lower().endswith(".pdf"):
        raise DocumentError(
            f"{name} is called a PDF but is none. Check that it was downloaded completely."
        )
    for mark, what in _OTHER_FORMATS:
        if head.startswith(mark):
            raise DocumentError(
                f"{name} {what}, which cannot be read yet. Save it as PDF or plain text."
            )
    text = _decode(path.read_bytes())
    if text is None or len(_CONTROL.findall(text)) > _MAX_CONTROL_SHARE * len(text):
        raise DocumentError(
            f"{name} is not a text file. PDF, text, Markdown and source files can be opened."
        )
    if not text.strip():
        raise DocumentError(f"{name} is empty: it holds nothing but blanks.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes) -> str | None:
    """Decode as UTF-8, UTF-16 (by its mark) or cp1252; None if it is no text."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings = ["utf-16"]
    elif b"\x00" in data:
        return None
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return None if "\x00" in text else text
    return None


def _cut(text: str) -> Iterator[str]:
    """Cut into pages at line ends; a line longer than a page is cut at a blank, if it has one."""
    start = 0
    while len(text) - start > _PAGE_CHARACTERS:
        limit = start + _PAGE_CHARACTERS
        end = text.rfind("\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
