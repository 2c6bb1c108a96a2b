"""Column order: changed where two columns interleave, left alone everywhere else."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from nexusquant.documents.pdf.columns import column_rows, places
from nexusquant.documents.pdf.layout import Segment

ROWS = 12


def column_text(segments: Sequence[Segment]) -> str | None:
    """The rows as lines; None where the stored order stays."""
    found = column_rows(segments)
    return found and "\n".join(" ".join(piece.text for piece in row) for row in found[0])


def segment(text: str, left: float, row: int, width: float = 220) -> Segment:
    bottom = 700 - 12 * row
    return Segment(text, left, bottom, left + width, bottom + 10)


def columns(shift: float = 0.0) -> tuple[list[Segment], list[Segment]]:
    left = [segment(f"left {row}", 60, row) for row in range(ROWS)]
    right = [
        Segment(f"right {row}", 320, 700 + shift - 12 * row, 540, 710 + shift - 12 * row)
        for row in range(ROWS)
    ]
    return left, right


def row_by_row(left: list[Segment], right: list[Segment]) -> list[Segment]:
    return [piece for pair in zip(left, right, strict=True) for piece in pair]


IN_ORDER = "\n".join(f"{side} {row}" for side in ("left", "right") for row in range(ROWS))


def test_columns_stored_row_by_row_are_read_one_after_the_other() -> None:
    assert column_text(row_by_row(*columns())) == IN_ORDER


def test_lines_of_the_columns_need_not_be_level() -> None:
    assert column_text(row_by_row(*columns(shift=4.0))) == IN_ORDER


def test_lines_over_both_columns_part_what_is_read() -> None:
    left, right = columns()
    middle = Segment("a heading over both columns", 60, 634, 540, 639)
    stored = [segment("title", 60, -2, width=480), *row_by_row(left, right), middle]
    lines = column_text(stored).split("\n")
    assert lines[0] == "title"
    assert lines.index("left 5") < lines.index("right 0") < lines.index(middle.text)
    assert lines.index(middle.text) < lines.index("left 6") < lines.index("right 6")


def test_columns_stored_one_by_one_keep_their_order() -> None:
    left, right = columns()
    assert column_text([*left, *right]) is None


def test_a_single_column_keeps_its_order() -> None:
    assert column_text([segment(f"line {row}", 60, row, width=480) for row in range(40)]) is None


def test_a_table_of_numbers_is_read_by_rows() -> None:
    cells = [
        segment("12.5", 60 + 120 * column, row, 25) for row in range(20) for column in range(4)
    ]
    assert column_text(cells) is None


def test_a_table_of_contents_is_read_by_rows() -> None:
    stored = []
    for row in range(20):
        stored += [segment(f"Chapter {row}", 60, row, 180), segment(str(row), 530, row, 10)]
    assert column_text(stored) is None


def test_words_of_a_line_are_joined_from_left_to_right() -> None:
    stored = []
    for row, (left, right) in enumerate(zip(*columns(), strict=True)):
        # gaps between words do not stand below each other, as those between columns do
        middle = left.left + 60 + 30 * (row % 4)
        row_pieces = [Segment("go", middle + 20, left.bottom, left.right, left.top)]
        row_pieces.append(Segment("words", left.left, left.bottom, middle, left.top))
        stored += [*row_pieces, right]
    assert column_text(stored).split("\n")[:2] == ["words go", "words go"]


def grid(num_columns: int, width: float = 110) -> list[Segment]:
    return [
        segment(f"{column} {row}", 40 + (width + 20) * column, row, width)
        for row in range(ROWS)
        for column in range(num_columns)
    ]


@pytest.mark.parametrize("num_columns", [2, 3, 4])
def test_any_number_of_columns_is_read_one_after_the_other(num_columns: int) -> None:
    expected = [f"{column} {row}" for column in range(num_columns) for row in range(ROWS)]
    assert column_text(grid(num_columns)) == "\n".join(expected)
    assert len(places(column_rows(grid(num_columns))[1])) == num_columns - 1


def test_columns_of_different_width_are_found() -> None:
    stored = []
    for row in range(ROWS):
        stored += [segment(f"narrow {row}", 40, row, 120), segment(f"wide {row}", 180, row, 360)]
    expected = [f"{side} {row}" for side in ("narrow", "wide") for row in range(ROWS)]
    assert column_text(stored) == "\n".join(expected)


def test_no_text_is_lost_or_doubled_in_any_stored_order() -> None:
    pieces = row_by_row(*columns())
    for seed in range(50):
        random.Random(seed).shuffle(pieces)
        text = column_text(pieces)
        assert text is None or sorted(text.split("\n")) == sorted(IN_ORDER.split("\n"))


def test_no_segments_are_no_columns() -> None:
    assert column_text([]) is None
