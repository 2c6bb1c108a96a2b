"""Hostile PDFs: damaged, absurd, endless, in circles, packed to burst, senseless.

Knows what may come back: pages of text, or one clear sentence, within limits of time and memory.
Must not know how PDFs are read.
"""

from __future__ import annotations

import functools
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from attempt import Attempt
from pdf_files import make_pdf
from pdf_kinds import HONEST, HONEST_TEXT, KINDS
from reader_processes import reader_processes

from nexusquant.documents import Document, FileReader
from nexusquant.errors import DocumentError

MAX_S, MAX_BYTES = 40.0, 1_150_000_000
CHECK_EVERY = 20


def attempts(rng: random.Random, count: int, folder: Path) -> Iterator[Attempt]:
    """So many hostile PDFs.

    Args:
        rng: The one source of chance.
        count: How many.
        folder: Where the files are written, one at a time.
    """
    scene = _Scene(folder)
    for number in range(count):
        kind, seed = rng.choice(KINDS), rng.getrandbits(48)
        content = kind(random.Random(seed))
        password = rng.choice([None, None, None, "", "sesame", "x" * 300, "\ud83d"])
        is_checked = number % CHECK_EVERY == CHECK_EVERY - 1
        yield Attempt(
            f"{kind.__name__[1:]} of Random({seed}), {len(content)} bytes, password {password!r}",
            functools.partial(scene.run, content, password, is_checked),
        )


class _Scene:
    """The reader that all files go through, and where they are written."""

    def __init__(self, folder: Path) -> None:
        self.reader, self.path = FileReader(), folder / "hostile.pdf"

    def run(self, content: bytes, password: str | None, is_checked: bool) -> str:
        start = time.monotonic()
        try:
            with _watched_memory() as peak:
                ended = self._read(content, password)
        finally:
            self.path.unlink(missing_ok=True)
        took_s = time.monotonic() - start
        assert took_s < MAX_S, f"took {took_s:.0f} s"
        assert peak[0] < MAX_BYTES, f"took {peak[0] >> 20} MB"
        assert not reader_processes(), "the reader process is still there"
        if is_checked:
            self.path.write_bytes(make_pdf([HONEST]))
            assert self.reader.extract(self.path).pages[0].text == HONEST_TEXT
            self.path.unlink()
        return ended

    def _read(self, content: bytes, password: str | None) -> str:
        self.path.write_bytes(content)
        try:
            document = self.reader.extract(self.path, password=password)
        except DocumentError as error:
            sentence = str(error)
            assert re.fullmatch(r"[A-Za-z].{10,500}\.", sentence, re.DOTALL), sentence
            assert "Traceback" not in sentence, sentence
            return "refused"
        _check_document(document)
        return "right"


def _check_document(document: Document) -> None:
    numbers = [page.number for page in document.pages]
    assert numbers == list(range(1, len(numbers) + 1))
    assert any(page.text for page in document.pages)
    for page in document.pages:
        page.text.encode()
        unwanted = re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", page.text)
        assert unwanted is None, f"{unwanted} on page {page.number}"
    assert set(document.empty_pages) | set(document.broken_pages) <= set(numbers)
    assert all(note.endswith(".") for note in document.notes)


@contextmanager
def _watched_memory() -> Iterator[list[int]]:
    """Note the most memory that a reader process holds, in bytes."""
    peak, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.03):
            for process in reader_processes():
                try:
                    peak[0] = max(peak[0], process.memory_info().rss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()
