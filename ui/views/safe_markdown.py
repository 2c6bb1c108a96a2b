"""Text for a widget that draws Markdown: what a person typed as typed, an answer without dangers.

Knows Markdown and HTML. Must not know who wrote a text, or widgets.

A character that would mean something is written as a reference of five digits ("&#00042;"). In
code, where references mean nothing, a mark without width (U+2060) follows it. Either way no "<"
opens a tag and no "!" an image, whatever a parser takes for code: that this module and the widget
agree on it matters for looks alone. A script of the page takes both out again when text is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum

JOINER = "\u2060"
"""WORD JOINER: of no width, no blank, no sign."""


class Kind(Enum):
    """What a stretch of an answer is."""

    TEXT = "text"
    CODE = "code"
    FORMULA = "formula"


# what may begin an element, a comment or a declaration; an image; a diagram, which is drawn by a
# program of its own from whatever a text says
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_IMAGE = re.compile(r"!(?=\[)")
_DIAGRAM = re.compile(
    # and names that every JavaScript object has, which the widget takes for languages
    r"([`~]{3,}[ \t]*)(?=mermaid|constructor|__|to(?:Locale)?String|valueOf|hasOwn|isProto"
    r"|propertyIs)",
    re.IGNORECASE,
)
# blanks that a browser leaves out of an address, behind which a scheme could hide
_BLANKS = re.compile(r"&(?=(?:Tab|NewLine|#0*(?:9|1[03])|#[xX]0*(?:9|[aAdD]));)")
_FENCE = re.compile(r"^[ \t>]*(?:[-*+][ \t]+|\d+[.)][ \t]+)?(`{3,}|~{3,})")
_SPAN = re.compile(
    r"(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)|\\\(.*?\\\)|\\\[.*?\\\]|\$\$.*?\$\$"
)
_FORMULA_OPENS = re.compile(r"^\s*(\\\[|\$\$)(?!.*(?:\\\]|\$\$)\s*$)")
_FORMULA_ENDS = re.compile(r"(\\\]|\$\$)\s*$")
# between the parts of a formula a star is a sign; a wave before a number is one too
_TIMES = re.compile(r"(?<=[\w)\]])\*{1,2}(?=[\w(\[])")
_EMPHASIS = re.compile(r"(?<![\d)\]])\*\*[^\s*][^*]*\*\*|(?<![\w*)\]])\*[^\s*][^*]*\*(?![\w*(\[])")
_GREATER = re.compile(r"^([ \t]*)>(?=[ \t]*[-+]?[\d.]*\d)")
# signs that mean something wherever they stand; at the beginning of a line; in what is an address
_MARKS = re.compile(
    r"[!#$&*<>\[\\\]^_`{|}~@]|^[ \t]*[-+=]|(?<![^ \t\n])\d{1,9}[.)]|:(?=//)|(?<=www)\.",
    re.MULTILINE | re.IGNORECASE,
)
_SPACES = re.compile(r"^[ \t]+|[ \t](?=[ \t\n]|$)", re.MULTILINE)
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


def as_typed(text: str) -> str:
    """Markdown that is drawn as exactly these characters: nothing in it means anything.

    Args:
        text: What a person wrote.
    """
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    plain = _MARKS.sub(_refer_signs, _UNSEEN.sub("\ufffd", plain))
    plain = _SPACES.sub(lambda found: _reference(" ") * len(found[0].expandtabs(4)), plain)
    # an empty line would end the paragraph
    return "\n".join(line or _reference(" ") for line in plain.split("\n"))


def as_answer(text: str) -> str:
    """Markdown without elements, images and diagrams, whose numbers keep their signs.

    Args:
        text: What a model wrote.
    """
    text = _DIAGRAM.sub(lambda found: found[1] + JOINER, text)
    lines = []
    for line, kind in _lines(text):
        if kind is not Kind.TEXT:
            lines.append(_harmless(line, kind))
            continue
        line = _GREATER.sub(lambda found: found[1] + _reference(">"), line)
        parts = [_harmless(part, kind) for part, kind in _parts(line)]
        lines.append("".join(parts))
    return "\n".join(lines)


def _lines(text: str) -> Iterator[tuple[str, Kind]]:
    """Lines, and whether they are in a block of code or in a formula of several lines."""
    fence, in_formula = "", False
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            yield line, Kind.CODE
            is_end = mark is not None and mark[1].startswith(fence) and not line.strip(" \t>`~")
            fence = "" if is_end else fence
        elif in_formula:
            yield line, Kind.FORMULA
            in_formula = _FORMULA_ENDS.search(line) is None
        elif mark:
            fence = mark[1]
            yield line, Kind.CODE
        else:
            in_formula = _FORMULA_OPENS.match(line) is not None
            yield line, Kind.FORMULA if in_formula else Kind.TEXT


def _parts(line: str) -> Iterator[tuple[str, Kind]]:
    end = 0
    for span in _SPAN.finditer(line):
        yield line[end : span.start()], Kind.TEXT
        yield span[0], Kind.CODE if span["ticks"] else Kind.FORMULA
        end = span.end()
    yield line[end:], Kind.TEXT


def _harmless(part: str, kind: Kind) -> str:
    if kind is Kind.TEXT:
        return _keep_signs(_IMAGE.sub(_refer, _TAG.sub(_refer, _BLANKS.sub(_refer, part))))
    # a formula takes no notice of blanks
    tag = "< " if kind is Kind.FORMULA else "<" + JOINER
    return _IMAGE.sub("!" + JOINER, _TAG.sub(tag, part))


def _keep_signs(text: str) -> str:
    pieces, end = [], 0
    for emphasis in _EMPHASIS.finditer(text):
        before = _TIMES.sub(_refer, text[end : emphasis.start()])
        pieces += [before, emphasis[0]]
        end = emphasis.end()
    pieces.append(_TIMES.sub(_refer, text[end:]))
    return "".join(pieces).replace("~", _reference("~"))


def _refer(found: re.Match[str]) -> str:
    return "".join(map(_reference, found[0]))


def _refer_signs(found: re.Match[str]) -> str:
    return "".join(
        letter if letter.isalnum() or letter in " \t" else _reference(letter) for letter in found[0]
    )


def _reference(character: str) -> str:
    return f"&#{ord(character):05d};"
