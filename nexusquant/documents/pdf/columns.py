"""Reading order of pages whose two columns are stored row by row.

Knows pieces of lines and where they stand. Must not know PDFium or files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

_MIN_ROWS = 5
# candidates for the gutter, as shares of the width of the text
_GUTTER_CANDIDATES = [step / 100 for step in range(25, 76)]
_MAX_SPANNING_SHARE = 0.3
# lines of running text fill their column, cells of a table do not
_MIN_FILL = 0.5
_HYPHEN_AT_LINE_END = re.compile(r"(?<=\w)-\n(?=[a-z])")


@dataclass(frozen=True)
class Segment:
    """A piece of a line without a wide gap; edges in points, upwards and to the right."""

    text: str
    left: float
    bottom: float
    right: float
    top: float


def column_text(segments: Sequence[Segment]) -> str | None:
    """Put the text of two columns in order where the stored order jumps between them.

    Args:
        segments: The page in its stored order.

    Returns:
        The left column and then the right one, for each stretch between lines that span both;
        None if the stored order can stay: one column, a table, or columns stored one by one.
    """
    if sum(_side_by_side(a, b) for a, b in pairwise(segments)) < _MIN_ROWS:
        return None
    gutter = _find_gutter(segments)
    if gutter is None or not _alternates(segments, gutter):
        return None
    lines = [line for part in _parts(segments, gutter) for line in _lines(part)]
    return _HYPHEN_AT_LINE_END.sub("", "\n".join(lines))


def _side_by_side(first: Segment, second: Segment) -> bool:
    height = first.top - first.bottom
    return second.left >= first.right and abs(second.bottom - first.bottom) < height


def _find_gutter(segments: Sequence[Segment]) -> float | None:
    left = min(segment.left for segment in segments)
    width = max(segment.right for segment in segments) - left
    places = [left + share * width for share in _GUTTER_CANDIDATES]
    crossings = [sum(_spans(segment, place) for segment in segments) for place in places]
    fewest = min(crossings)
    runs = [
        [place for place, _ in run]
        for count, run in groupby(zip(places, crossings, strict=True), key=lambda pair: pair[1])
        if count == fewest
    ]
    widest = max(runs, key=len)
    gutter = (widest[0] + widest[-1]) / 2
    return gutter if _is_gutter(segments, gutter, left, left + width) else None


def _is_gutter(segments: Sequence[Segment], gutter: float, left: float, right: float) -> bool:
    sides = [
        _rows(s for s in segments if s.right <= gutter),
        _rows(s for s in segments if s.left >= gutter),
    ]
    num_spanning = sum(_spans(segment, gutter) for segment in segments)
    num_rows = min(len(rows) for rows in sides)
    if num_rows < _MIN_ROWS or num_spanning > _MAX_SPANNING_SHARE * num_rows:
        return False
    widths = (gutter - left, right - gutter)
    return all(_fill(rows) >= _MIN_FILL * width for rows, width in zip(sides, widths, strict=True))


def _fill(rows: Iterable[Sequence[Segment]]) -> float:
    return median(sum(segment.right - segment.left for segment in row) for row in rows)


def _spans(segment: Segment, gutter: float) -> bool:
    return segment.left < gutter < segment.right


def _alternates(segments: Sequence[Segment], gutter: float) -> bool:
    sides = [segment.left >= gutter for segment in segments if not _spans(segment, gutter)]
    jumps = sum(a != b for a, b in pairwise(sides))
    return jumps >= min(sides.count(True), sides.count(False)) / 2


def _parts(segments: Sequence[Segment], gutter: float) -> Iterable[list[Segment]]:
    """Yield what is read without a jump: a spanning line, or one column between two of them."""
    by_height = sorted(segments, key=lambda segment: -segment.bottom)
    for spanning, band in groupby(by_height, key=lambda segment: _spans(segment, gutter)):
        members = list(band)
        if spanning:
            yield members
        else:
            yield [segment for segment in members if segment.right <= gutter]
            yield [segment for segment in members if segment.left >= gutter]


def _lines(part: Iterable[Segment]) -> Iterable[str]:
    for row in _rows(part):
        yield " ".join(segment.text for segment in row)


def _rows(segments: Iterable[Segment]) -> list[list[Segment]]:
    rows: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda item: -item.bottom):
        height = segment.top - segment.bottom
        if rows and abs(rows[-1][0].bottom - segment.bottom) < height / 2:
            rows[-1].append(segment)
        else:
            rows.append([segment])
    return [sorted(row, key=lambda segment: segment.left) for row in rows]
