"""Pages of a document as HTML and words: the card, the picker's text, the strip, one page's text.

Knows documents; every text from a file is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexusquant.config import CompressionConfig
from nexusquant.documents import Document, Fit, Page, PageCount, ReadProgress
from ui.gauge import meter, notice, part
from ui.presenters import config_label, count, escape, percent, rate, time_left

NUM_LEAST_KEPT = 5
SHARE_STEPS = 5


def document_card(document: Document, counts: Sequence[PageCount] | None) -> str:
    """Name, pages and tokens of an opened file, and which pages hold no text."""
    tokens = f"{count(sum(c.num_tokens for c in counts))} tokens" if counts else "counting tokens"
    num_pages = len(document.pages)
    pages = f"{count(num_pages)} page" + ("s" if num_pages != 1 else "")
    notes = "".join(notice(note, "warn") for note in document.notes)
    return (
        f'<div class="nq-doc"><b>{escape(document.name)}</b>'
        f'<span class="nq-quiet">{pages}, {tokens}</span></div>{notes}'
    )


def fit_line(fit: Fit, num_chosen: int) -> str:
    """Whether the chosen pages fit, and what can be done when they do not."""
    held, room = count(fit.num_tokens), count(fit.capacity_tokens)
    sizes = f"{held} of {room} tokens, room for an answer included"
    if fit.fits:
        return notice(f"Fits: {sizes}.", "busy")
    return notice(
        f"Does not fit: {sizes}. The first {fit.num_pages_that_fit} of {num_chosen} pages would. "
        "Choose pages, or a model with a longer context in Settings. Nothing is cut without you.",
        "warn",
    )


def reading(progress: ReadProgress, config: CompressionConfig) -> str:
    """How far the first reading is, in pages first, and whether a second one follows."""
    text = (
        f"Reading page {progress.page}, {count(progress.num_done)} of "
        f"{count(progress.num_total)} tokens, {rate(progress.tok_s)}, {time_left(progress.left_s)}"
    )
    share = progress.num_done / progress.num_total
    if progress.block is not None:
        share = progress.block.share
        text += f" for all, {part(progress.block)}"
    elif config.reads_twice(progress.num_total):
        text += " in the first of two readings"
    return notice(text, "busy") + meter("Reading", share, text)


def page_strip(shares: Sequence[tuple[int, float]], config: CompressionConfig) -> str:
    """One cell per page read: how much of its key-value pairs is kept, by colour and by text."""
    cells = "".join(_cell(number, share) for number, share in shares)
    mean = sum(share for _, share in shares) / len(shares) if shares else 0.0
    least = sorted(shares, key=lambda pair: pair[1])[:NUM_LEAST_KEPT]
    listed = ", ".join(f"p. {number} ({percent(share)})" for number, share in least)
    told = (
        f"<p>Least kept: {listed}</p>"
        if mean < 1.0
        else "<p>Every token of every page is kept.</p>"
    )
    preset = escape(config_label(config))
    return (
        f'<section class="nq-card"><h3>Kept of each page, read with {preset}</h3>'
        f'<div class="nq-strip">{cells}</div>'
        '<p class="nq-legend"><i class="nq-share-0"></i> least '
        f'<i class="nq-share-{SHARE_STEPS - 1}"></i>'
        " most kept. Press a page to see its text.</p>"
        f"{told}</section>"
    )


def _cell(number: int, share: float) -> str:
    step = min(SHARE_STEPS - 1, int(share * SHARE_STEPS))
    label = f"Page {number}: {percent(share)} kept"
    return (
        f'<button type="button" class="nq-share-{step}" data-page="{number}" title="{label}" '
        f'aria-label="{label}">{number}</button>'
    )


def page_text(page: Page, share: float | None) -> str:
    """The text of one page, as it was read from the file."""
    kept = f", {percent(share)} of its key-value pairs kept" if share is not None else ""
    text = escape(page.text.strip()) or '<span class="nq-quiet">This page has no text.</span>'
    return (
        f'<article class="nq-page" tabindex="0" aria-label="Text of page {page.number}">'
        f"<h3>Page {page.number}{kept}</h3><div>{text}</div></article>"
    )
