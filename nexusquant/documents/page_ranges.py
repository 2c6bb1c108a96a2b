"""Page numbers as people write them: "1-15, 18". Knows no document."""

from __future__ import annotations

import re
from collections.abc import Sequence

_PART = re.compile(r"(\d+)(?:(-)(\d*))?|(-)(\d+)")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))
_MAX_DIGITS = 9


def parse_page_ranges(text: str, last: int) -> tuple[int, ...]:
    """Read page numbers and ranges; an open range goes on to the first or the last page.

    Args:
        text: Such as "1-15, 18", "20-" or "all"; parts are parted by commas, semicolons or blanks.
        last: Number of the last page there is.

    Returns:
        The numbers, ascending, each once.

    Raises:
        ValueError: Not page numbers, or pages that do not exist; the message shows the way.
    """
    cleaned = re.sub(r"\s*-\s*", "-", text.translate(_DASHES).strip().lower())
    if cleaned == "all":
        return tuple(range(1, last + 1))
    numbers: set[int] = set()
    for part in re.split(r"[,;\s]+", cleaned):
        if part:
            first, final = _parse_part(part, text, last)
            numbers.update(range(first, final + 1))
    if not numbers:
        raise ValueError(
            f"No pages were chosen; write pages from 1 to {last}, such as {_example(last)}."
        )
    return tuple(sorted(numbers))


def _parse_part(part: str, text: str, last: int) -> tuple[int, int]:
    match = _PART.fullmatch(part)
    if match is None or any(len(digits) > _MAX_DIGITS for digits in re.findall(r"\d+", part)):
        raise ValueError(f"{text!r} is not a list of pages; write it like {_example(last)}.")
    if match[4]:
        first, final = 1, int(match[5])
    else:
        first = int(match[1])
        final = int(match[3]) if match[3] else last if match[2] else first
    if not 1 <= first <= last or not 1 <= final <= last:
        raise ValueError(f"There is no page {part}; the document has pages 1 to {last}.")
    if first > final:
        raise ValueError(f"{part} runs backwards; write {final}-{first}.")
    return first, final


def _example(last: int) -> str:
    if last < 3:
        return "1"
    return f'"1-{last - 1}" or "1, {last}"'


def format_page_ranges(numbers: Sequence[int]) -> str:
    """Write page numbers shortly: (1, 2, 3, 5) becomes "1-3, 5"."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
