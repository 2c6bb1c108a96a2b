"""Cuts a text into pages of about the same size, at line ends, as it comes in.

Knows characters and lines. Must not know files or encodings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nexusquant.documents.formats.encoded_data import Piece

PAGE_CHARACTERS = 3_000


@dataclass(frozen=True)
class Cut:
    """A page's text and the line of the whole file, counted from 1, in which it begins."""

    text: str
    first_line: int


def cut(pieces: Iterable[Piece]) -> Iterator[Cut]:
    """Cut at line ends; a line longer than a page is cut at a blank, if it has one.

    Put together, the pages are the whole text.
    """
    rest, line = "", 1
    # where in the rest lines were left out, and how many
    gaps: list[tuple[int, int]] = []
    for piece in pieces:
        text, start = rest + piece.text, 0
        if piece.num_lines_left_out:
            gaps.append((len(text), piece.num_lines_left_out))
        while len(text) - start > PAGE_CHARACTERS:
            end = _page_end(text, start)
            yield Cut(text[start:end], line)
            line += text.count("\n", start, end) + sum(n for place, n in gaps if place <= end)
            gaps = [(place, n) for place, n in gaps if place > end]
            start = end
        rest = text[start:]
        gaps = [(place - start, n) for place, n in gaps]
    if rest:
        yield Cut(rest, line)


def _page_end(text: str, start: int) -> int:
    limit = start + PAGE_CHARACTERS
    return text.rfind("\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit
