"""Reading order of pages whose columns are stored row by row.

Knows pieces of lines and where they stand. Must not know PDFium or files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

from nexusquant.documents.pdf.layout import Segment

_MIN_ROWS = 5
# candidates for the gutter, as shares of the width of the text
_GUTTER_CANDIDATES = [step / 100 for step in range(15, 86)]
_MAX_SPANNING_SHARE = 0.3
# lines of running text fill their column, cells of a table do not
_MIN_FILL = 0.5
# more columns than on any page that is meant to be read
_MAX_DEPTH = 4

Row = list[Segment]


@dataclass(frozen=True)
class Gutter:
    """The gap between two columns, each of which may have gutters of its own."""

    place: float
    left: Gutter | None
    right: Gutter | None


def column_rows(segments: Sequence[Segment]) -> tuple[list[Row], Gutter] | None:
    """Put the rows of columns in order where the stored order jumps between them.

    Args:
        segments: The page in its stored order.

    Returns:
        The rows of each column, from left to right, for each stretch between lines that span
        columns, and the gutters; None if the stored order can stay: one column, a table, or
        columns stored one by one.
    """
    if sum(_side_by_side(a, b) for a, b in pairwise(segments)) < _MIN_ROWS:
        return None
    gutter = _find_gutter(segments, _MAX_DEPTH)
    if gutter is None or not any(_alternates(segments, place) for place in places(gutter)):
        return None
    return list(_in_order(segments, gutter)), gutter


def places(gutter: Gutter | None) -> list[float]:
    """List where the gutters are, from left to right."""
    if gutter is None:
        return []
    return [*places(gutter.left), gutter.place, *places(gutter.right)]


def _side_by_side(first: Segment, second: Segment) -> bool:
    height = first.top - first.bottom
    return second.left >= first.right and abs(second.bottom - first.bottom) < height


def _find_gutter(segments: Sequence[Segment], depth: int) -> Gutter | None:
    if not segments or depth == 0:
        return None
    left = min(segment.left for segment in segments)
    right = max(segment.right for segment in segments)
    candidates = [left + share * (right - left) for share in _GUTTER_CANDIDATES]
    crossings = [sum(_spans(segment, place) for segment in segments) for place in candidates]
    for place in _best_first(candidates, crossings):
        if _is_gutter(segments, place, left, right):
            return Gutter(
                place,
                _find_gutter([s for s in segments if s.right <= place], depth - 1),
                _find_gutter([s for s in segments if s.left >= place], depth - 1),
            )
    return None


def _best_first(candidates: Sequence[float], crossings: Sequence[int]) -> list[float]:
    """List the middles of the gaps that the fewest lines cross, the widest first."""
    fewest = min(crossings)
    runs = [
        [place for place, _ in run]
        for count, run in groupby(zip(candidates, crossings, strict=True), key=lambda pair: pair[1])
        if count == fewest
    ]
    runs.sort(key=len, reverse=True)
    return [(run[0] + run[-1]) / 2 for run in runs]


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


def _in_order(segments: Sequence[Segment], gutter: Gutter | None) -> Iterable[Row]:
    """Yield rows: those of a spanning line, or of one column after the other between two."""
    if gutter is None:
        yield from _rows(segments)
        return
    by_height = sorted(segments, key=lambda segment: -segment.bottom)
    for spanning, band in groupby(by_height, key=lambda segment: _spans(segment, gutter.place)):
        members = list(band)
        if spanning:
            yield from _rows(members)
        else:
            yield from _in_order([s for s in members if s.right <= gutter.place], gutter.left)
            yield from _in_order([s for s in members if s.left >= gutter.place], gutter.right)


def _rows(segments: Iterable[Segment]) -> list[Row]:
    rows: list[Row] = []
    for segment in sorted(segments, key=lambda item: -item.bottom):
        height = segment.top - segment.bottom
        if rows and abs(rows[-1][0].bottom - segment.bottom) < height / 2:
            rows[-1].append(segment)
        else:
            rows.append([segment])
    return [sorted(row, key=lambda segment: segment.left) for row in rows]
