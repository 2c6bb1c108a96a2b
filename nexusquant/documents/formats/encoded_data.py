"""Leaves out pictures and other data that are written as letters inside a text.

Knows base64 and data: addresses. Must not know formats or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# in a data: address, and as a run that no word is as long as
_ADDRESS = re.compile(
    r"(?<=;base64,)[A-Za-z0-9+/=%_-]{200,}"
    r"|(?<=data:)(?:image|font|audio|video|application)/[\w.+-]{1,60}[;,][^\s\"'<>()]{200,}"
)
_RUN = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{1000,}={0,2}")
# many lines of the same width, as mails and keys have them
_WRAPPED = re.compile(r"(?:^[ \t]*[A-Za-z0-9+/]{60,}={0,2}(?:\n|\Z)){12,}", re.MULTILINE)
# letters of proteins, figures in hex or base 32 use fewer
_MIN_LETTERS = 40


@dataclass(frozen=True)
class Piece:
    """A piece of text, and how many lines of the file were left out at its end."""

    text: str
    num_lines_left_out: int = 0


class DataFilter:
    """Replaces data by a remark on how much was left out, and counts."""

    def __init__(self) -> None:
        self.num_places = 0
        self.num_characters = 0

    def clean(self, text: str) -> str:
        """Leave out data; see `pieces`."""
        return "".join(piece.text for piece in self.pieces(text))

    def pieces(self, text: str) -> Iterator[Piece]:
        """Leave out data, and say where lines went with it."""
        start = 0
        for found in _WRAPPED.finditer(text):
            remark = self._replaced(found)
            if remark == found[0]:
                continue
            end = "\n" if found[0].endswith("\n") else ""
            yield Piece(
                self._clean_lines(text[start : found.start()]) + remark + end,
                found[0].count("\n") - len(end),
            )
            start = found.end()
        yield Piece(self._clean_lines(text[start:]))

    def _clean_lines(self, text: str) -> str:
        return _RUN.sub(self._replaced, _ADDRESS.sub(self._replaced, text))

    def _replaced(self, found: re.Match[str]) -> str:
        if len(set(found[0])) < _MIN_LETTERS and not found[0].startswith(("image", "font")):
            return found[0]
        self.num_places += 1
        self.num_characters += len(found[0])
        return f"[{len(found[0]):,} characters of encoded data left out]"

    def notes(self) -> tuple[str, ...]:
        """Say what was left out."""
        if not self.num_places:
            return ()
        places = "one place" if self.num_places == 1 else f"{self.num_places:,} places"
        return (
            f"Left out encoded data, such as a picture, in {places} "
            f"({self.num_characters:,} characters).",
        )
