"""Page lists: what people write is understood, what cannot be meant is explained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexusquant.documents import format_page_ranges, parse_page_ranges


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1-3, 5", (1, 2, 3, 5)),
        ("5,1 - 3", (1, 2, 3, 5)),
        ("2–4", (2, 3, 4)),
        ("8-", (8, 9)),
        ("-2", (1, 2)),
        ("3 4;4", (3, 4)),
        ("all", tuple(range(1, 10))),
        ("9", (9,)),
    ],
)
def test_usual_ways_of_writing_are_understood(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_page_ranges(text, last=9) == numbers


@pytest.mark.parametrize(
    ("text", "help_text"),
    [
        ("", "pages from 1 to 9"),
        (" , ", "pages from 1 to 9"),
        ("12", "pages 1 to 9"),
        ("0-3", "pages 1 to 9"),
        ("3-99999999999999999999", "not a list of pages"),
        ("5-2", "write 2-5"),
        ("one", "write it like"),
        ("1-2-3", "write it like"),
        ("-", "write it like"),
    ],
)
def test_what_cannot_be_meant_is_explained(text: str, help_text: str) -> None:
    with pytest.raises(ValueError, match=help_text):
        parse_page_ranges(text, last=9)


@given(st.sets(st.integers(1, 500), min_size=1))
def test_written_ranges_are_read_back(numbers: set[int]) -> None:
    text = format_page_ranges(sorted(numbers))
    assert parse_page_ranges(text, last=500) == tuple(sorted(numbers))


def test_neighbours_are_written_as_a_range() -> None:
    assert format_page_ranges((1, 2, 3, 5, 7, 8)) == "1-3, 5, 7-8"
