"""Files to documents: finds out what a file is and lets the right reader read it.

Knows which files may be opened, and what readers say. Must not know the engine, PDFium or how
any format is read.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nexusquant.documents.document import Document, Page
from nexusquant.documents.formats.signatures import is_pdf
from nexusquant.documents.pdf import read_pdf
from nexusquant.documents.worker import Reading, Turns
from nexusquant.errors import DocumentError

_MAX_BYTES = 200_000_000
_MAX_WAITING = 3
# readers accept a PDF that has some bytes in front of its mark
_HEAD_BYTES = 1024
_PLAIN_TEXT_SUFFIXES = frozenset({"", ".txt", ".text", ".log", ".csv", ".tsv", ".rst", ".tex"})
_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdx"})
# what is read as text, and not as the source that it is
_RENDERED_SUFFIXES = frozenset(
    {".html", ".htm", ".xhtml", ".xht", ".shtml", ".eml", ".mht", ".mhtml", ".doc", ".xls"}
)
_READER = "nexusquant.documents.formats.reader"


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
        owner: str = "",
    ) -> Document:
        """Read a PDF, text, Markdown or source file, a web page, mail or notebook as pages.

        Pages of a PDF are its own, counted from 1. Other files are cut at line ends into pages of
        about 3,000 characters; put together, those are the whole text.

        Args:
            path: The file.
            password: For a locked PDF.
            is_wanted: Asked about every 0.2 s, in this thread, while waiting and reading; once it
                is False, the reading ends.
            name: What to call the file, if not by the name it lies under.
            owner: Who wants it: owners take turns, and few files of one may wait. "" is nobody's.

        Raises:
            PasswordError: A locked PDF; the password is missing or wrong.
            ReadingStoppedError: Nobody wants the document any more.
            DocumentError: Anything else that keeps the file from being read; the message is for
                the user and says what can be done.
        """
        name = name or path.name
        inspected = _inspect(path, name)
        reading = Reading(inspected.num_bytes, is_wanted)
        if owner and self._turns.num_waiting(owner) >= _MAX_WAITING:
            raise DocumentError(
                f"{_MAX_WAITING} other files of yours are waiting to be opened. Wait for one of "
                "them, then open this file again."
            )
        with self._turns.take(reading.check_wanted, owner):
            if is_pdf(inspected.head, Path(name).suffix.lower()):
                return read_pdf(path, name, inspected.sha256, password, reading)
            return _read_text(path, name, inspected.sha256, reading)


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
    is_text = suffix in _PLAIN_TEXT_SUFFIXES or suffix in _RENDERED_SUFFIXES
    return "text" if is_text else "code"


def _read_text(path: Path, name: str, sha256: str, reading: Reading) -> Document:
    pages: list[Page] = []
    notes: tuple[str, ...] = ()
    for message in reading.messages(_READER, {"path": str(path), "name": name}):
        text, line = message.get("text"), message.get("first_line")
        if isinstance(text, str):
            first_line = line if isinstance(line, int) else None
            pages.append(Page(len(pages) + 1, text, first_line))
        elif isinstance(message.get("notes"), list):
            notes = tuple(map(str, message["notes"]))
    return Document(name, _text_kind(Path(name)), tuple(pages), sha256, notes=notes)
