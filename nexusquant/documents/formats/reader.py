"""Reads a file that is no PDF, page by page; runs in the reader process.

Knows which format a name and first bytes stand for, and hands each to its reader. Must not know
processes, the engine or PDFs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nexusquant.documents.formats import legacy
from nexusquant.documents.formats.decoding import Decoder, NotTextError
from nexusquant.documents.formats.encoded_data import DataFilter, Piece
from nexusquant.documents.formats.encoding import find_encoding
from nexusquant.documents.formats.html_page import html_text
from nexusquant.documents.formats.mail import mail_text
from nexusquant.documents.formats.notebook import notebook_text
from nexusquant.documents.formats.paging import cut
from nexusquant.documents.formats.signatures import refuse_other_formats
from nexusquant.errors import DocumentError

_BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 4096
_MAIL_SUFFIXES = frozenset((".eml", ".mht", ".mhtml"))
_HTML_SUFFIXES = frozenset((".html", ".htm", ".xhtml", ".xht", ".shtml"))
# pages that were saved under the name of a text or of a Word file
_MAYBE_HTML_SUFFIXES = frozenset(("", ".txt", ".text", ".doc", ".xls"))
_HTML_STARTS = (b"<!doctype html", b"<html")


def read(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Read a file.

    Args:
        request: "path" of the file, and "name" for its kind and for messages.

    Yields:
        For each page "text" and "first_line", which is the line of the file that it begins in, or
        None where lines of the file are not those of the text. Then "notes", a list of sentences.

    Raises:
        DocumentError: It cannot be read; the message is for the user.
    """
    file = _File(Path(request["path"]), str(request["name"]))
    suffix = Path(file.name).suffix.lower()
    is_html = suffix in _HTML_SUFFIXES
    if suffix in _MAYBE_HTML_SUFFIXES:
        is_html = file.head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_STARTS)
    if not is_html:
        refuse_other_formats(file.head, file.num_bytes, file.name, suffix)
    text = _Text(file)
    has_file_lines = False
    pieces: Iterable[Piece]
    if is_html:
        pieces = map(Piece, html_text(text.decoded()))
    elif suffix == ".ipynb":
        pieces = text.filtered([notebook_text("".join(text.decoded()), file.name)])
    elif suffix in _MAIL_SUFFIXES and (mail := mail_text(file.path.read_bytes())):
        text.notes.extend(mail[1])
        pieces = text.filtered([mail[0]])
    else:
        has_file_lines = True
        pieces = text.filtered(text.decoded())
    yield from _pages(pieces, file.name, has_file_lines)
    yield {"notes": [*text.notes, *text.data_filter.notes()]}


def _pages(pieces: Iterable[Piece], name: str, has_file_lines: bool) -> Iterator[dict[str, Any]]:
    is_blank = True
    for page in cut(pieces):
        is_blank = is_blank and not page.text.strip()
        yield {
            "text": _without_broken_characters(page.text),
            "first_line": page.first_line if has_file_lines else None,
        }
    if is_blank:
        raise DocumentError(f"{name} is empty: it holds nothing but blanks.")


def _without_broken_characters(text: str) -> str:
    """Put together characters that were written as two halves; one half, or zero, becomes U+FFFD.

    Notebooks and mails can spell them.
    """
    text = text.replace("\0", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class _File:
    """The bytes, from the beginning as often as they are asked for."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.num_bytes = path.stat().st_size
        with path.open("rb") as file:
            self.head = file.read(_HEAD_BYTES)

    def blocks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block


class _Text:
    """The file as text, with what is to be told of it."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self.notes: list[str] = []
        self.data_filter = DataFilter()

    def decoded(self) -> Iterator[str]:
        """Yield the text in pieces.

        Raises:
            DocumentError: It is none.
        """
        declared = legacy.declared_codec(self._file.head)
        encoding = find_encoding(self._file.blocks, declared=declared)
        if encoding is None:
            raise DocumentError(self._not_text())
        decoder = Decoder(self._file.blocks, encoding)
        try:
            yield from decoder.pieces()
        except NotTextError as error:
            raise DocumentError(self._not_text()) from error
        self.notes.extend(decoder.notes())

    def filtered(self, pieces: Iterable[str]) -> Iterator[Piece]:
        """Leave out data that is written as letters."""
        for piece in pieces:
            yield from self.data_filter.pieces(piece)

    def _not_text(self) -> str:
        return (
            f"{self._file.name} is not a text file. PDF, text, Markdown and source files, web "
            "pages, mails and notebooks can be opened."
        )
