"""Cuts a text into pages of about the same size, at line ends, as it comes in.

Knows characters and lines. Must not know files or encodings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PAGE_CHARACTERS = 3_000


@dataclass(frozen=True)
class Cut:
    """A page's text and the line of the whole text, counted from 1, in which it begins."""

    text: str
    first_line: int


def cut(pieces: Iterable[str]) -> Iterator[Cut]:
    """Cut at line ends; a line longer than a page is cut at a blank, if it has one.

    Put together, the pages are the whole text.
    """
    rest, line = "", 1
    for piece in pieces:
        text, start = rest + piece, 0
        while len(text) - start > PAGE_CHARACTERS:
            limit = start + PAGE_CHARACTERS
            end = text.rfind("\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit
            yield Cut(text[start:end], line)
            line += text.count("\n", start, end)
            start = end
        rest = text[start:]
    if rest:
        yield Cut(rest, line)
