"""Leaves out pictures and other data that are written as letters inside a text.

Knows base64. Must not know formats or files.
"""

from __future__ import annotations

import re

# in a data: address, and as a run that no word is as long as
_ADDRESS = re.compile(r"(?<=;base64,)[A-Za-z0-9+/=%_-]{200,}")
_RUN = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{1000,}={0,2}")
_WRAPPED = re.compile(r"(?:^[ \t]*[A-Za-z0-9+/]{60,}={0,2}(?:\n|\Z)){12,}", re.MULTILINE)
# letters of proteins, figures in hex or base 32 use fewer
_MIN_LETTERS = 40


class DataFilter:
    """Replaces data by a remark on how much was left out, and counts."""

    def __init__(self) -> None:
        self.num_places = 0
        self.num_characters = 0

    def clean(self, text: str) -> str:
        """Leave out data in one line; line ends stay as they are."""
        if ";base64," in text:
            text = _ADDRESS.sub(self._replaced, text)
        return _RUN.sub(self._replaced, text)

    def clean_all(self, text: str) -> str:
        """Leave out data that goes over many lines, too."""
        return self.clean(_WRAPPED.sub(self._replaced_lines, text))

    def _replaced(self, found: re.Match[str]) -> str:
        if len(set(found[0])) < _MIN_LETTERS:
            return found[0]
        self.num_places += 1
        self.num_characters += len(found[0])
        return f"[{len(found[0]):,} characters of encoded data left out]"

    def _replaced_lines(self, found: re.Match[str]) -> str:
        remark = self._replaced(found)
        return remark if remark == found[0] else f"{remark}\n"

    def notes(self) -> tuple[str, ...]:
        """Say what was left out."""
        if not self.num_places:
            return ()
        places = "one place" if self.num_places == 1 else f"{self.num_places:,} places"
        return (
            f"Left out encoded data, such as a picture, in {places} "
            f"({self.num_characters:,} characters).",
        )
