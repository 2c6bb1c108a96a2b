"""Undoes what printing did to text. Knows strings alone, no PDF."""

from __future__ import annotations

import re

_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\u00ad": None}
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")
_JOINED_HYPHEN = re.compile("\ufffe\\s*")
# the word up to the hyphen; long ones are no words, and a bound keeps the search short
_LINE_END_HYPHEN = re.compile(r"(\S{0,40}\w)([-\u2010])[ \t]*\n[ \t]*(?=(\w))")
_SOFT_BREAK = re.compile("\u00ad[ \t]*\n[ \t]*")
# the row of dots between a heading and its page number
_DOT_LEADER = re.compile(r"(?:(?:[ \t]\.){2,}|\.{4,})[ \t]*")
_PAGE_NUMBER = re.compile(r"[\divxlc]+(?:, ?\d+)*[ \t]*$", re.MULTILINE)


def tidy_text(text: str) -> str:
    """Undo what printing did to text: ligatures, hyphens at line ends, rows of dots.

    PDFium marks a hyphen that it took for a line end's with U+FFFE.
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _SOFT_BREAK.sub("", _JOINED_HYPHEN.sub("-\n", text))
    text = join_hyphens(text)
    text = _CONTROL.sub(" ", text.translate(_LIGATURES))
    text = _DOT_LEADER.sub(_undotted, text)
    lines = [line.rstrip() for line in text.split("\n")]
    return "\n".join(lines).strip("\n")


def join_hyphens(text: str) -> str:
    """Join words that a line end parts; the hyphen stays where the word is written with one."""
    return _LINE_END_HYPHEN.sub(_joined, text)


def _joined(match: re.Match[str]) -> str:
    left, hyphen, right = match[1], match[2], match[3]
    last = left[-1]
    is_part_of_word = (
        # x-ray: no word is parted behind its first letter
        not left[-2:-1].isalnum()
        or last.isdigit()
        or last.isupper()
        or right.isdigit()
        or right.isupper()
        # mother-in-law, https://example.org/a-b
        or any(mark in left for mark in "-\u2010/:@_.")
    )
    return left + (hyphen if is_part_of_word else "")


def _undotted(match: re.Match[str]) -> str:
    # looked at here and not in the search, which would try a long row of dots from every dot anew
    is_leader = _PAGE_NUMBER.match(match.string, match.end())
    return " " if is_leader else match[0]
