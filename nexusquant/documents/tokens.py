"""How many tokens pages take, and how many of them fit the model's context.

Knows the engine's tokenizer and the prompt's frame. Must not know caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nexusquant.config import RopeScaling
from nexusquant.documents.document import Document
from nexusquant.documents.prompt import frame_text, page_mark, page_text
from nexusquant.engine import Engine
from nexusquant.errors import CacheStateError

ANSWER_TOKENS = 512
"""Room that is kept for an answer unless said otherwise."""

_QUESTION_TOKENS = 64


@dataclass(frozen=True)
class PageCount:
    """Size of a page's text."""

    number: int
    num_tokens: int
    num_characters: int


@dataclass(frozen=True)
class Fit:
    """Whether chosen pages fit.

    Args:
        num_tokens: Pages, instructions, room for a question and for its answer.
        capacity_tokens: What the model's context holds.
        num_pages_that_fit: Chosen pages that fit, counted from the first one on.
        fits: True if all do.
    """

    num_tokens: int
    capacity_tokens: int
    num_pages_that_fit: int
    fits: bool


def count_pages(engine: Engine, document: Document) -> tuple[PageCount, ...]:
    """Count the tokens of every page with the loaded model's tokenizer."""
    return tuple(
        PageCount(
            number=page.number,
            num_tokens=engine.count_tokens(page_text(engine, page)),
            num_characters=len(page.text),
        )
        for page in document.pages
    )


def plan_fit(
    engine: Engine,
    counts: Sequence[PageCount],
    page_numbers: Sequence[int],
    *,
    answer_tokens: int = ANSWER_TOKENS,
    scaling: RopeScaling | None = None,
) -> Fit:
    """Tell whether pages fit the model's context, before anything is read.

    Args:
        engine: With a loaded model.
        counts: Of the document, from `count_pages`.
        page_numbers: The pages chosen.
        answer_tokens: Room to keep for an answer.
        scaling: How the document's positions are to be scaled; None: not at all.

    Raises:
        CacheStateError: No model is loaded.
    """
    if engine.info is None:
        raise CacheStateError("No model is loaded, so nothing can be counted. Load one first.")
    tokens_of = {count.number: count.num_tokens for count in counts}
    capacity = round(engine.info.context_length * (scaling.factor if scaling else 1))
    total = engine.count_tokens(frame_text(engine)) + _QUESTION_TOKENS + answer_tokens
    num_fitting = 0
    # a mark and a line end for every page with text, as in the prompt
    for number in sorted(page_numbers):
        if tokens_of[number]:
            total += tokens_of[number] + engine.count_tokens(page_mark(number)) + 1
        num_fitting += total <= capacity
    return Fit(total, capacity, num_fitting, fits=total <= capacity)
