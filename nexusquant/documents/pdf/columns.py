"""Reading order of pages whose columns are stored row by row.

Knows pieces of lines and where they stand. Must not know PDFium or files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

from nexusquant.documents.pdf.layout import Segment

_MIN_ROWS = 5
# candidates for the gutter, as shares of the width of the text
_GUTTER_CANDIDATES = [step / 200 for step in range(20, 181)]
_MAX_TRIES = 5
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
    for place in _best_first(candidates, _crossings(segments, candidates))[:_MAX_TRIES]:
        sides = [s for s in segments if s.right <= place], [s for s in segments if s.left >= place]
        if not _parts_rows(segments, sides):
            continue
        gutters = [_find_gutter(side, depth - 1) for side in sides]
        widths = (place - left, right - place)
        if all(
            gutter is not None or _fill(_rows(side)) >= _MIN_FILL * width
            for gutter, side, width in zip(gutters, sides, widths, strict=True)
        ):
            return Gutter(place, *gutters)
    return None


def _crossings(segments: Sequence[Segment], candidates: Sequence[float]) -> list[int]:
    lefts = sorted(segment.left for segment in segments)
    rights = sorted(segment.right for segment in segments)
    return [bisect_left(lefts, place) - bisect_right(rights, place) for place in candidates]


def _best_first(candidates: Sequence[float], crossings: Sequence[int]) -> list[float]:
    """List the middles of the gaps that fewer lines cross than their surroundings.

    Those that the fewest lines cross come first, and the wider ones of them.
    """
    counted = zip(candidates, crossings, strict=True)
    runs = [
        (count, [place for place, _ in run])
        for count, run in groupby(counted, key=lambda pair: pair[1])
    ]
    counts = [float("inf"), *(count for count, _ in runs), float("inf")]
    gaps = [
        run
        for before, run, after in zip(counts, runs, counts[2:], strict=False)
        if run[0] < before and run[0] < after
    ]
    gaps.sort(key=lambda run: (run[0], -len(run[1])))
    return [(places[0] + places[-1]) / 2 for _, places in gaps]


def _parts_rows(segments: Sequence[Segment], sides: Sequence[Sequence[Segment]]) -> bool:
    num_spanning = len(segments) - sum(len(side) for side in sides)
    num_rows = min(len(_rows(side)) for side in sides)
    return num_rows >= _MIN_ROWS and num_spanning <= _MAX_SPANNING_SHARE * num_rows


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
