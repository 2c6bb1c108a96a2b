"""HTML to the text that a reader of the page sees, line by line.

Knows what browsers show of each tag. Must not know files or encodings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nexusquant.documents.formats.html_parser import TagParser

# what is in them is for the machine, or shown in place of something else
_HIDDEN = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "noframes",
        "noembed",
        "iframe",
        "object",
        "applet",
        "audio",
        "video",
        "canvas",
        "map",
        "datalist",
        "annotation",
        "annotation-xml",
    ]
)
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "ol",
        "option",
        "p",
        "pre",
        "section",
        "select",
        "summary",
        "table",
        "tbody",
        "textarea",
        "tfoot",
        "thead",
        "title",
        "tr",
        "ul",
    ]
)
_PARAGRAPHS = frozenset(
    [
        "blockquote",
        "dl",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ol",
        "p",
        "pre",
        "table",
        "title",
        "ul",
    ]
)
_CELLS = frozenset(("td", "th"))
_PRE = frozenset(("pre", "textarea", "listing", "xmp"))
_BLANKS = re.compile("[ \t\n\r\f\xa0]+")
_IS_HIDDEN_STYLE = re.compile(
    r"display\s{0,9}:\s{0,9}none|visibility\s{0,9}:\s{0,9}hidden"
    r"|(?:font-size|opacity)\s{0,9}:\s{0,9}0(?:\.0{1,9})?(?:px|pt|em|rem|%)?\s{0,9}(?:;|!|$)",
    re.IGNORECASE,
)
_BOXES = frozenset(("checkbox", "radio"))
_UNSEEN_INPUTS = frozenset(("hidden", "password", "file", "image", "color", "range", *_BOXES))
# so that what a long page says is handed on as it comes
_FEED_CHARACTERS = 1 << 20


class _Writer:
    """Writes text as lines: blanks become one, as browsers do it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._line: list[str] = []
        self._num_empty = 2
        self._has_blank = True

    def write(self, text: str) -> None:
        text = _BLANKS.sub(" ", text)
        if self._has_blank:
            text = text.removeprefix(" ")
        if text:
            self._line.append(text)
            self._has_blank = text.endswith(" ")

    def write_as_it_is(self, text: str) -> None:
        first, *others = text.split("\n")
        self._line.append(first)
        for line in others:
            self.end_line(is_kept=True)
            self._line.append(line)

    def mark_item(self) -> None:
        self._line.append("- ")
        self._has_blank = True

    def separate_cell(self) -> None:
        if self._line:
            self._line = ["".join(self._line).rstrip(), "\t"]
        self._has_blank = True

    def end_line(self, *, is_paragraph: bool = False, is_kept: bool = False) -> None:
        line = "".join(self._line).rstrip()
        self._line.clear()
        self._has_blank = True
        if line:
            self.done.append(line + "\n")
            self._num_empty = 0
        if (is_kept and not line) or (is_paragraph and not self._num_empty):
            self.done.append("\n")
            self._num_empty += 1


class _Page(TagParser):
    """Takes tags and text, and hands on to the writer what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.writer = _Writer()
        # how many elements are open around the outermost one that is not shown
        self._hidden_from: int | None = None
        self._num_pre = 0

    def opened(self, tag: str, attributes: dict[str, str], depth: int) -> None:
        if self._hidden_from is not None:
            return
        if tag in _HIDDEN or _is_hidden(attributes):
            self._hidden_from = depth
            return
        self._num_pre += tag in _PRE
        if tag in _CELLS:
            self.writer.separate_cell()
        elif tag in _BLOCKS:
            self.writer.end_line(is_paragraph=tag in _PARAGRAPHS)
        if tag == "li":
            self.writer.mark_item()
        elif tag == "input":
            self._write_input(attributes)
        elif tag == "option" and "selected" in attributes:
            self.writer.write("[x] ")

    def closed(self, tag: str, depth: int) -> None:
        if self._hidden_from is not None:
            if depth <= self._hidden_from:
                self._hidden_from = None
            return
        self._num_pre = max(0, self._num_pre - (tag in _PRE))
        if tag in _BLOCKS:
            self.writer.end_line(is_paragraph=tag in _PARAGRAPHS)

    def handle_data(self, data: str) -> None:
        if self._hidden_from is not None:
            return
        if self._num_pre:
            self.writer.write_as_it_is(data)
        else:
            self.writer.write(data)

    def _write_input(self, attributes: dict[str, str]) -> None:
        kind = attributes.get("type", "text").lower()
        if kind in _BOXES:
            self.writer.write("[x] " if "checked" in attributes else "[ ] ")
        elif kind not in _UNSEEN_INPUTS:
            self.writer.write(f" {attributes.get('value', '')} ")


def _is_hidden(attributes: dict[str, str]) -> bool:
    if not attributes:
        return False
    return "hidden" in attributes or bool(_IS_HIDDEN_STYLE.search(attributes.get("style", "")))


def html_text(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the text of a page as it comes in: blocks as lines, cells parted by tabs.

    Args:
        pieces: The markup, decoded.
    """
    page = _Page()
    for piece in pieces:
        for start in range(0, len(piece), _FEED_CHARACTERS):
            page.feed(piece[start : start + _FEED_CHARACTERS])
            yield _taken(page.writer)
    page.close()
    page.writer.end_line()
    yield _taken(page.writer)


def _taken(writer: _Writer) -> str:
    text = "".join(writer.done)
    writer.done.clear()
    return text
