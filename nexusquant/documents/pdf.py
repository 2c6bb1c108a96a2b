"""PDF files to pages, through a worker process that may hang or crash without harm.

Knows the worker's messages and how its text is made tidy. Must not touch PDFium.
"""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from nexusquant.documents.columns import Segment, column_text
from nexusquant.documents.document import Page, PasswordError
from nexusquant.documents.page_ranges import format_page_ranges
from nexusquant.errors import DocumentError

_WORKER = Path(__file__).with_name("pdf_worker.py")
_MAX_PAGES = 10_000
_MAX_SILENCE_S = 30.0
_MAX_TOTAL_S = 600.0
_MAX_CRASHES = 5

_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\u00ad": None}
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_JOINED_HYPHEN = re.compile("\ufffe\\s*")
# the row of dots between a heading and its page number
_DOT_LEADER = re.compile(
    r"(?:(?:[ \t]\.){2,}|\.{4,})[ \t]*(?=[\divxlc]+(?:, ?\d+)*[ \t]*$)", re.MULTILINE
)


@dataclass
class PdfPages:
    """What could be read of a PDF: pages in order, those without text, those with errors."""

    pages: list[Page] = field(default_factory=list)
    empty_pages: list[int] = field(default_factory=list)
    broken_pages: list[int] = field(default_factory=list)

    def add(self, message: dict[str, Any]) -> None:
        """Take one page's message of the worker."""
        number = message["number"]
        text = "" if "error" in message else _page_text(message)
        self.pages.append(Page(number, text))
        if "error" in message:
            self.broken_pages.append(number)
        elif message["is_picture"]:
            self.empty_pages.append(number)


def read_pdf(path: Path, password: str | None) -> PdfPages:
    """Read every page that can be read.

    Raises:
        PasswordError: The file is locked and the password is missing or wrong.
        DocumentError: Not one page has text, too many pages, or the file is broken as a whole.
    """
    result = PdfPages()
    deadline = time.monotonic() + _MAX_TOTAL_S
    num_pages = _read_from(1, path, password, result, deadline)
    num_crashes = 0
    while len(result.pages) < num_pages:
        # the worker died or hung on the next page: note that page and go on behind it
        num_crashes += 1
        last_broken = num_pages if num_crashes > _MAX_CRASHES else len(result.pages) + 1
        for number in range(len(result.pages) + 1, last_broken + 1):
            result.add({"number": number, "error": "the worker ended"})
        if last_broken < num_pages:
            _read_from(last_broken + 1, path, password, result, deadline)
    _check_has_text(result)
    return result


def _read_from(
    first: int, path: Path, password: str | None, result: PdfPages, deadline: float
) -> int:
    request = {"path": str(path), "password": password, "first": first, "max_pages": _MAX_PAGES}
    num_pages = None
    for message in _worker_messages(request, deadline):
        if "refused" in message:
            raise _refusal(message["refused"], password)
        if "num_pages" in message:
            num_pages = message["num_pages"]
        else:
            result.add(message)
    if num_pages is None:
        raise _refusal("broken", password)
    if num_pages > _MAX_PAGES:
        raise DocumentError(
            f"The PDF has {num_pages} pages; up to {_MAX_PAGES} can be opened. "
            "Split it and open the part you need."
        )
    return num_pages


def _worker_messages(request: dict[str, Any], deadline: float) -> Iterator[dict[str, Any]]:
    """Yield what a new worker says, until it ends or has been silent for too long."""
    process = subprocess.Popen(
        [sys.executable, str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="ascii",
    )
    try:
        lines = _start_reader(cast(TextIO, process.stdout))
        try:
            with cast(TextIO, process.stdin) as requests:
                requests.write(json.dumps(request) + "\n")
        except BrokenPipeError:
            return
        while line := _next_line(lines, deadline):
            yield json.loads(line)
    finally:
        process.kill()
        process.wait()


def _start_reader(stream: TextIO) -> queue.Queue[str]:
    """Let a thread wait for lines, so that the waiting can have an end on every system."""
    lines: queue.Queue[str] = queue.Queue(maxsize=64)

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _next_line(lines: queue.Queue[str], deadline: float) -> str:
    """Return the next line, or nothing if the worker has ended or hangs."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise DocumentError(
            f"Reading the PDF took longer than {_MAX_TOTAL_S / 60:.0f} minutes and was stopped. "
            "Save the pages you need as a PDF of their own and open that."
        )
    try:
        line = lines.get(timeout=min(left_s, _MAX_SILENCE_S))
    except queue.Empty:
        return ""
    # a worker that dies while it writes leaves half a line
    return line if line.endswith("\n") else ""


def _refusal(why: str, password: str | None) -> DocumentError:
    if why != "password":
        return DocumentError(
            "The PDF is broken and cannot be opened. Check that it was copied or downloaded "
            "completely; saving it anew from another PDF reader often repairs it."
        )
    if password is None:
        return PasswordError("The PDF is locked. Enter its password to open it.")
    return PasswordError("The password does not open the PDF. Check it and enter it again.")


def _check_has_text(result: PdfPages) -> None:
    if any(page.text for page in result.pages):
        return
    numbers = [page.number for page in result.pages]
    if not numbers:
        raise DocumentError("The PDF has no pages.")
    if result.broken_pages == numbers:
        raise DocumentError(
            "Not one page of the PDF could be read: the file is broken. Saving it anew from "
            "another PDF reader often repairs it."
        )
    which = (
        f"Page {numbers[0]} has"
        if len(numbers) == 1
        else f"Pages {format_page_ranges(numbers)} have"
    )
    raise DocumentError(
        f"{which} no text: the PDF holds pictures of pages, as a scanner makes them, or blank "
        "pages. Put it through a program that recognises text (OCR) and open what that saves."
    )


def _page_text(message: dict[str, Any]) -> str:
    text = message["text"]
    segments = [
        Segment(text[int(start) : int(end)], *edges) for start, end, *edges in message["segments"]
    ]
    return tidy_text(column_text(segments) or text)


def tidy_text(text: str) -> str:
    """Undo what printing did to text: ligatures, hyphens at line ends, rows of dots.

    PDFium marks a hyphen that it took for a line end's with U+FFFE.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = _JOINED_HYPHEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _CONTROL.sub(" ", text.translate(_LIGATURES))
    text = _DOT_LEADER.sub(" ", text)
    lines = [line.rstrip() for line in text.split("\n")]
    return "\n".join(lines).strip("\n")
