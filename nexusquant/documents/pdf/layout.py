"""Where the words of a page stand.

Knows boxes, words and the white space between them. Must not know PDFium, forms or columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle on a page whose text stands upright; in points, upwards and to the right."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def height(self) -> float:
        """Its height, at least a point: some fonts claim none."""
        return max(self.top - self.bottom, 1.0)

    @property
    def middle(self) -> float:
        """Half way between its lower and its upper edge."""
        return (self.top + self.bottom) / 2

    def turned(self, quarters: int) -> Box:
        """Return it on the page turned clockwise by as many right angles."""
        box = self
        for _ in range(quarters % 4):
            box = Box(box.bottom, -box.right, box.top, -box.left)
        return box

    def shares_row(self, other: Box) -> bool:
        """Tell whether one of the two stands at the height of the other."""
        return self.bottom <= other.middle <= self.top or other.bottom <= self.middle <= other.top

    def overlap_area(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)


@dataclass(frozen=True)
class Word:
    """Letters without a blank, and the white space up to the next word in reading order."""

    text: str
    box: Box
    gap: str


@dataclass(frozen=True)
class Segment:
    """A piece of a line without a wide gap; edges in points, upwards and to the right."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    words: tuple[Word, ...] = ()


# in heights of a line: a wider gap parts columns, a larger step down parts lines
_COLUMN_GAP = 0.8
_LINE_STEP = 0.5


def join_words(words: Iterable[Word]) -> str:
    """Put the text of words together again."""
    return "".join(word.text + word.gap for word in words)


def segments_of(words: Sequence[Word]) -> list[Segment]:
    """Put words that follow each other on a line together.

    Args:
        words: In their stored order.
    """
    runs: list[list[Word]] = []
    gap = "\n"
    for word in words:
        if runs and "\n" not in gap and _continues(runs[-1], word.box):
            runs[-1].append(word)
        else:
            runs.append([word])
        gap = word.gap
    return [_segment(run) for run in runs]


def _continues(run: Sequence[Word], box: Box) -> bool:
    first, last = run[0].box, run[-1].box
    is_level = abs(box.bottom - first.bottom) < _LINE_STEP * first.height
    return is_level and -first.height < box.left - last.right < _COLUMN_GAP * first.height


def _segment(run: Sequence[Word]) -> Segment:
    first, last = run[0].box, run[-1].box
    text = join_words(run[:-1]) + run[-1].text
    return Segment(text, first.left, first.bottom, last.right, first.top, tuple(run))
