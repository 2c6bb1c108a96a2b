"""Column order: changed where two columns interleave, left alone everywhere else."""

from __future__ import annotations

import random

from nexusquant.documents.pdf.columns import Segment, column_text

ROWS = 12


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
    for left, right in zip(*columns(), strict=True):
        row = [Segment("go", left.left + 120, left.bottom, left.right, left.top)]
        row.append(Segment("words", left.left, left.bottom, left.left + 100, left.top))
        stored += [*row, right]
    assert column_text(stored).split("\n")[:2] == ["words go", "words go"]


def test_a_word_cut_at_the_end_of_a_line_becomes_whole() -> None:
    left, right = columns()
    left[0] = segment("the inter-", 60, 0)
    left[1] = segment("esting part", 60, 1)
    assert column_text(row_by_row(left, right)).startswith("the interesting part\n")


def test_no_text_is_lost_or_doubled_in_any_stored_order() -> None:
    pieces = row_by_row(*columns())
    for seed in range(50):
        random.Random(seed).shuffle(pieces)
        text = column_text(pieces)
        assert text is None or sorted(text.split("\n")) == sorted(IN_ORDER.split("\n"))


def test_no_segments_are_no_columns() -> None:
    assert column_text([]) is None
