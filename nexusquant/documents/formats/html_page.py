"""HTML to the text that a reader of the page sees.

Knows tags and what browsers show of them. Must not know files or encodings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lxml import etree

# what is in them is for the machine
_HIDDEN = frozenset(
    "script style template noframes noembed iframe object applet audio video canvas "
    "map datalist annotation annotation-xml".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body br caption center dd details dialog div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main menu nav ol "
    "option p pre section select summary table tbody textarea tfoot thead title tr ul".split()
)
_PARAGRAPHS = frozenset("blockquote dl h1 h2 h3 h4 h5 h6 ol p pre table title ul".split())
_CELLS = frozenset(("td", "th"))
_PRE = frozenset(("pre", "textarea"))
_BLANKS = re.compile("[ \t\n\r\f\xa0]+")
_IS_HIDDEN_STYLE = re.compile(r"display\s{0,9}:\s{0,9}none|visibility\s{0,9}:\s{0,9}hidden", re.I)
_FEED_CHARACTERS = 1 << 16


class _Target:
    """Receives the parser's events and writes the text line by line."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._line: list[str] = []
        # how deep inside something that is not shown, and inside preformatted text
        self._hidden_depth = 0
        self._pre_depth = 0
        self._num_empty = 2
        self._has_blank = True

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._hidden_depth or tag in _HIDDEN or _is_hidden(attributes):
            self._hidden_depth += 1
            return
        if tag in _CELLS:
            self._separate_cell()
        elif tag in _BLOCKS:
            self._end_line(is_paragraph=tag in _PARAGRAPHS)
        if tag == "li":
            self._write("- ")
            self._has_blank = True
        self._pre_depth += tag in _PRE

    def end(self, tag: str) -> None:
        if self._hidden_depth:
            self._hidden_depth -= 1
            return
        self._pre_depth = max(0, self._pre_depth - (tag in _PRE))
        if tag in _BLOCKS and tag != "br":
            self._end_line(is_paragraph=tag in _PARAGRAPHS)

    def data(self, text: str) -> None:
        if self._hidden_depth:
            return
        if self._pre_depth:
            first, *others = text.split("\n")
            self._write(first)
            for line in others:
                self._end_line(is_kept=True)
                self._write(line)
            return
        text = _BLANKS.sub(" ", text)
        if self._has_blank:
            text = text.removeprefix(" ")
        if text:
            self._write(text)
            self._has_blank = text.endswith(" ")

    def comment(self, text: str) -> None:
        pass

    def pi(self, target: str, data: str | None = None) -> None:
        pass

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        pass

    def close(self) -> None:
        self._end_line()

    def _write(self, text: str) -> None:
        if text:
            self._line.append(text)
            self._has_blank = False

    def _separate_cell(self) -> None:
        if self._line:
            self._line = ["".join(self._line).rstrip(), "\t"]
        self._has_blank = True

    def _end_line(self, *, is_paragraph: bool = False, is_kept: bool = False) -> None:
        line = "".join(self._line).rstrip()
        self._line.clear()
        self._has_blank = True
        if line:
            self.done.append(line + "\n")
            self._num_empty = 0
        if (is_kept and not line) or (is_paragraph and not self._num_empty):
            self.done.append("\n")
            self._num_empty += 1


def _is_hidden(attributes: dict[str, str]) -> bool:
    if not attributes:
        return False
    return "hidden" in attributes or bool(_IS_HIDDEN_STYLE.search(attributes.get("style", "")))


def html_text(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of a page as it comes in: blocks as lines, cells parted by tabs.

    Args:
        pieces: The markup, decoded.
    """
    target = _Target()
    parser = etree.HTMLParser(target=target, huge_tree=True)
    has_markup = False
    try:
        for piece in pieces:
            for start in range(0, len(piece), _FEED_CHARACTERS):
                has_markup = True
                parser.feed(piece[start : start + _FEED_CHARACTERS].replace("\0", "\ufffd"))
                yield _taken(target)
        if has_markup:
            parser.close()
    except etree.LxmlError:
        # nothing that could be parsed, such as a comment alone
        target.close()
    yield _taken(target)


def _taken(target: _Target) -> str:
    text = "".join(target.done)
    target.done.clear()
    return text
