"""Undoes what printing did to text. Knows strings alone, no PDF."""

from __future__ import annotations

import re

_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\u00ad": None}
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_JOINED_HYPHEN = re.compile("\ufffe\\s*")
# the row of dots between a heading and its page number
_DOT_LEADER = re.compile(
    r"(?:(?:[ \t]\.){2,}|\.{4,})[ \t]*(?=[\divxlc]+(?:, ?\d+)*[ \t]*$)", re.MULTILINE
)


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
