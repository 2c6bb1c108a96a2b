"""Page numbers named in an answer. Knows the forms they are written in, and no document."""

from __future__ import annotations

import re
from collections.abc import Container

_NUMBER_OR_RANGE = r"\d{1,7}(?:\s*[-\u2010-\u2015]\s*\d{1,7})?"
_CITATION = re.compile(
    rf"\b(?:pages?|pgs?\.?|pp?\.)\s*({_NUMBER_OR_RANGE}(?:\s*(?:,|;|&|and|to)\s*{_NUMBER_OR_RANGE})*)",
    re.IGNORECASE,
)


def find_cited_pages(answer: str, known: Container[int]) -> tuple[int, ...]:
    """List the known pages that an answer names, such as "[p. 3]", "page 3" or "pages 3-5".

    Args:
        answer: Text of a model.
        known: Pages that exist; others are left out, since models make numbers up.

    Returns:
        Page numbers in the order of their first naming.
    """
    found: dict[int, None] = {}
    for citation in _CITATION.finditer(answer):
        for part in re.findall(_NUMBER_OR_RANGE, citation[1]):
            numbers = [int(digits) for digits in re.findall(r"\d+", part)]
            found.update(dict.fromkeys(_existing(numbers[0], numbers[-1], known)))
    return tuple(found)


def _existing(first: int, last: int, known: Container[int]) -> list[int]:
    # a made-up range may name millions of pages
    return [number for number in range(first, min(last, first + 10_000) + 1) if number in known]
