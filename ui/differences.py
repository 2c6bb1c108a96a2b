"""Where two answers part. Knows words only; every text is escaped."""

from __future__ import annotations

from ui.presenters import escape


def first_difference(left: str, right: str) -> int | None:
    """Index of the first word, counted from 0, in which two texts differ; None if in none.

    A text that ends early differs from the other at its end.
    """
    ours, theirs = left.split(), right.split()
    for index, (word, other) in enumerate(zip(ours, theirs, strict=False)):
        if word != other:
            return index
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def marked(text: str, word_index: int | None) -> str:
    """`text` as HTML with the word at `word_index` marked, or its end if it has no such word."""
    if word_index is None:
        return escape(text)
    position = 0
    for _ in range(word_index):
        position = _word_end(text, position)
    start = _word_start(text, position)
    end = _word_end(text, position)
    if start == end:
        return f'{escape(text)} <mark class="nq-first">(ends here)</mark>'
    word = f'<mark class="nq-first">{escape(text[start:end])}</mark>'
    return escape(text[:start]) + word + escape(text[end:])


def _word_start(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _word_end(text: str, position: int) -> int:
    position = _word_start(text, position)
    while position < len(text) and not text[position].isspace():
        position += 1
    return position
