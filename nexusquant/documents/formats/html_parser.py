"""HTML to tags and text in order, with the elements that are open.

Knows which end tags authors may leave out. Must not know what is shown.
"""

from __future__ import annotations

import html
from collections import Counter
from html.parser import HTMLParser

_VOID = frozenset(
    [
        "area",
        "base",
        "basefont",
        "bgsound",
        "br",
        "col",
        "command",
        "embed",
        "frame",
        "hr",
        "image",
        "img",
        "input",
        "keygen",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    ]
)
_TABLE = frozenset(("table", "template"))
_ROWS = frozenset(("tr", "td", "th"))
_IN_P = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "center",
        "details",
        "dialog",
        "dir",
        "div",
        "dl",
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
        "main",
        "menu",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "ul",
    ]
)
# a start tag: the open elements that it ends, and those that it does not reach through
_ENDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "li": (frozenset(("li",)), frozenset(("ul", "ol", "menu", "dir"))),
    "dt": (frozenset(("dt", "dd")), frozenset(("dl",))),
    "dd": (frozenset(("dt", "dd")), frozenset(("dl",))),
    "option": (frozenset(("option",)), frozenset(("select", "datalist"))),
    "optgroup": (frozenset(("option", "optgroup")), frozenset(("select",))),
    "td": (frozenset(("td", "th")), _TABLE | {"tr"}),
    "th": (frozenset(("td", "th")), _TABLE | {"tr"}),
    "tr": (_ROWS, _TABLE | {"tbody", "thead", "tfoot"}),
    **dict.fromkeys(("tbody", "thead", "tfoot"), (_ROWS | {"tbody", "thead", "tfoot"}, _TABLE)),
    **dict.fromkeys(
        _IN_P, (frozenset(("p",)), frozenset(("td", "th", "button", "object", "caption", "div")))
    ),
}
# an element that looks further up than this for one to end finds none
_MAX_REACH = 200


class TagParser(HTMLParser):
    """Calls `opened`, `closed` and `handle_data`; every element that is opened is closed once."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self._num_open: Counter[str] = Counter()

    def opened(self, tag: str, attributes: dict[str, str], depth: int) -> None:
        """Take a start tag; `depth` elements are open around it."""

    def closed(self, tag: str, depth: int) -> None:
        """Take the end of an element; `depth` elements are still open."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Close what the tag ends, then open it."""
        self._end_before(tag)
        attributes = {name: value or "" for name, value in attrs}
        self.opened(tag, attributes, len(self.stack))
        if tag in _VOID:
            self.closed(tag, len(self.stack))
            return
        self.stack.append(tag)
        self._num_open[tag] += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take <br/> as <br>, and <div/> as <div>, as browsers do."""
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the element and all that was opened in it; ignore it if none is open."""
        while self._num_open[tag]:
            closed = self._pop()
            if closed == tag:
                return

    def close(self) -> None:
        """Take what is left, and close all elements."""
        # the library would look for the end of a tag or comment from each of its characters on
        rest, self.rawdata = self.rawdata, ""
        if not rest.startswith(("<!", "<?")):
            self.handle_data(html.unescape(rest))
        while self.stack:
            self._pop()

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Skip what Office writes between <![ and >, as browsers do; the library may raise."""
        end = self.rawdata.find(">", i)
        return end + 1 if end >= 0 else -1

    def _end_before(self, tag: str) -> None:
        ended, limits = _ENDS.get(tag, (frozenset(), frozenset()))
        if not any(self._num_open[name] for name in ended):
            return
        outermost = None
        for place in range(len(self.stack) - 1, max(-1, len(self.stack) - _MAX_REACH), -1):
            if self.stack[place] in ended:
                outermost = place
            elif self.stack[place] in limits:
                break
        while outermost is not None and len(self.stack) > outermost:
            self._pop()

    def _pop(self) -> str:
        tag = self.stack.pop()
        self._num_open[tag] -= 1
        self.closed(tag, len(self.stack))
        return tag
