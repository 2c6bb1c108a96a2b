"""Puts what stands in fields and notes where a reader of the page meets it.

Knows words and boxes. Must not know PDFium or kinds of fields.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nexusquant.documents.pdf.layout import Box, Word

# in points
_TOLERANCE = 3.0
# in heights of a word: how far above a field its label may stand
_LABEL_RISE = 3.0
# more fields than a page that people fill in has; tables among them would take long to find
_MAX_TABLE_FIELDS = 1_000


@dataclass(frozen=True)
class Inset:
    """Text that lies over the page, such as the value of a field.

    Args:
        text: What a reader sees there.
        box: Where.
        is_mark: True for the mark of a box to tick, whose label may stand to its right.
    """

    text: str
    box: Box
    is_mark: bool = False


@dataclass(frozen=True)
class _Anchor:
    """Before or after which word an inset goes, and whether on a line of its own."""

    word: int
    is_before: bool = False
    is_line: bool = False


def place(
    words: Sequence[Word], insets: Iterable[Inset], gutters: Sequence[float] = ()
) -> list[Word]:
    """Put insets among words: after their label and before the next one.

    Args:
        words: The page in reading order.
        insets: In any order.
        gutters: Where gaps between columns are; an inset stays in its column.

    Returns:
        Words in reading order, the insets among them.
    """
    found: dict[_Anchor, list[Inset]] = defaultdict(list)
    rest: list[Inset] = []
    for inset, anchor in _anchored(words, list(insets), gutters):
        if anchor is None:
            rest.append(inset)
        else:
            found[anchor].append(inset)
    result = [Word(_in_rows(rest), rest[0].box, "\n")] if rest else []
    for index, word in enumerate(words):
        for is_line in (True, False):
            if members := found.get(_Anchor(index, is_before=True, is_line=is_line)):
                result.append(Word(_in_rows(members), word.box, "\n" if is_line else " "))
        result += _followed(word, found.get(_Anchor(index)), is_line=False)
        members = found.get(_Anchor(index, is_line=True))
        if members:
            last = result.pop()
            result += _followed(last, members, is_line=True)
    return result


def _anchored(
    words: Sequence[Word], insets: Sequence[Inset], gutters: Sequence[float]
) -> list[tuple[Inset, _Anchor | None]]:
    """Find the place of each inset; tables of fields go below their whole line of headings."""
    pairs = [(inset, _anchor(words, inset, gutters)) for inset in insets]
    if len(insets) > _MAX_TABLE_FIELDS:
        return pairs
    heads = [
        words[anchor.word].box
        for inset, anchor in pairs
        if anchor is not None and anchor.is_line and _heads_stack(words, inset, insets)
    ]
    return [
        (inset, _nearest_line(words, range(len(words)), inset.box))
        if anchor is not None and anchor.is_line and _is_heading(words[anchor.word].box, heads)
        else (inset, anchor)
        for inset, anchor in pairs
    ]


def _is_heading(label: Box, heads: Sequence[Box]) -> bool:
    return sum(head.shares_row(label) for head in heads) > 1


def _heads_stack(words: Sequence[Word], inset: Inset, insets: Sequence[Inset]) -> bool:
    """Tell whether the next thing below a field is another one, and not a label of its own."""
    box = inset.box
    below = [other.box for other in insets if _is_below(other.box, box)]
    if not below:
        return False
    next_top = max(other.top for other in below)
    return not any(_is_below(word.box, box) and word.box.middle > next_top for word in words)


def _is_below(lower: Box, upper: Box) -> bool:
    is_aligned = lower.left < upper.right and lower.right > upper.left
    return is_aligned and lower.top <= upper.bottom + _TOLERANCE


def _followed(word: Word, members: Sequence[Inset] | None, is_line: bool) -> list[Word]:
    if not members:
        return [word]
    gap = "\n" if is_line else " "
    after = "\n" if is_line else word.gap or " "
    return [replace(word, gap=gap), Word(_in_rows(members), word.box, after)]


def _in_rows(insets: Sequence[Inset]) -> str:
    """Write insets as lines, those of one row beside each other."""
    rows: list[list[Inset]] = []
    for inset in sorted(insets, key=lambda inset: -inset.box.middle):
        if rows and rows[-1][0].box.shares_row(inset.box):
            rows[-1].append(inset)
        else:
            rows.append([inset])
    return "\n".join(
        " ".join(inset.text for inset in sorted(row, key=lambda inset: inset.box.left))
        for row in rows
    )


def _anchor(words: Sequence[Word], inset: Inset, gutters: Sequence[float]) -> _Anchor | None:
    box = inset.box
    near = [i for i, word in enumerate(words) if _same_column(word.box, box, gutters)]
    row = [i for i in near if words[i].box.shares_row(box)]
    left = [i for i in row if words[i].box.left < box.left + _TOLERANCE]
    right = [i for i in row if words[i].box.right > box.right - _TOLERANCE and i not in set(left)]
    before = _label_left(words, left)
    after = min(right, key=lambda i: words[i].box.left, default=None)
    if inset.is_mark and after is not None:
        gap_left = box.left - words[before].box.right if before is not None else float("inf")
        if words[after].box.left - box.right <= gap_left:
            return _Anchor(after, is_before=True)
    if before is not None:
        return _Anchor(before)
    label = _label_above(words, near, box)
    if label is not None:
        return _Anchor(label, is_line=True)
    if after is not None:
        return _Anchor(after, is_before=True)
    return _nearest_line(words, near, box)


def _same_column(first: Box, second: Box, gutters: Sequence[float]) -> bool:
    a, b = sorted((first, second), key=lambda box: box.left)
    return not any(a.right <= place <= b.left for place in gutters)


def _label_left(words: Sequence[Word], left: Sequence[int]) -> int | None:
    """Find the end of the first line that stands to the left, as beside the top of a tall field."""
    if not left:
        return None
    top = words[max(left, key=lambda i: words[i].box.middle)].box
    return max((i for i in left if words[i].box.shares_row(top)), key=lambda i: words[i].box.right)


def _label_above(words: Sequence[Word], near: Sequence[int], box: Box) -> int | None:
    """Find the end of the piece of a line that stands right above."""
    above = [i for i in near if _is_over(words[i].box, box)]
    if not above:
        return None
    lowest = min(words[i].box.bottom for i in above)
    end = max(i for i in above if words[i].box.bottom - lowest < words[i].box.height / 2)
    # the rest of the label may reach beyond the field
    while end + 1 < len(words) and _continues(words[end], words[end + 1]):
        end += 1
    return end


def _is_over(word: Box, box: Box) -> bool:
    is_aligned = word.left < box.right and word.right > box.left
    return is_aligned and -_TOLERANCE <= word.bottom - box.top < _LABEL_RISE * word.height


def _continues(word: Word, following: Word) -> bool:
    gap = following.box.left - word.box.right
    return word.box.shares_row(following.box) and -_TOLERANCE < gap < word.box.height


def _nearest_line(words: Sequence[Word], near: Sequence[int], box: Box) -> _Anchor | None:
    """Find the line above; None if there is none, so that the inset begins the page."""
    above = [i for i in near if words[i].box.middle > box.middle]
    if not above:
        return None
    lowest = min(words[i].box.middle for i in above)
    row = [i for i in above if words[i].box.middle - lowest < words[i].box.height / 2]
    return _Anchor(max(row), is_line=True)
