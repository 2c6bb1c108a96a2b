"""Questions about one document, answered from one compressed cache.

Knows pages, the prompt and the conversation that holds it. Must not know widgets, files or how
a cache compresses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime

from nexusquant.config import CompressionConfig, RopeScaling, SamplingParams
from nexusquant.documents.citations import find_cited_pages
from nexusquant.documents.document import Document, Page
from nexusquant.documents.page_ranges import format_page_ranges
from nexusquant.documents.prompt import ANSWER_LEAD, DocumentPrompt, build_prompt
from nexusquant.documents.tokens import Fit, count_pages, plan_fit
from nexusquant.engine import (
    BlockProgress,
    Conversation,
    Engine,
    Event,
    Job,
    Order,
    PrefillProgress,
    TextDelta,
)
from nexusquant.engine.stats import CacheUsage
from nexusquant.errors import CacheStateError, ContextLengthError


@dataclass(frozen=True)
class ReadProgress:
    """How far the reading of a document is.

    Args:
        page: Number of the page being read.
        num_pages: Pages to read; pages without text are not among them.
        num_done: Tokens read.
        num_total: Tokens to read.
        tok_s: Tokens per second so far.
        left_s: Seconds left at this speed; None before there is a speed. In several blocks, for
            both readings of all of them.
        block: The block of the text being read; None where the text is one block.
    """

    page: int
    num_pages: int
    num_done: int
    num_total: int
    tok_s: float
    left_s: float | None
    block: BlockProgress | None = None


class DocumentSession:
    """Some pages of a document: read once, then asked about again and again.

    Args:
        engine: With a loaded model.
        document: From `extract`.
        page_numbers: The pages to read.
        config: How their cache is compressed.
        scaling: How positions are scaled, for pages beyond the model's trained length; None: not
            at all.
        moment: What a chat template that prints date or time prints; None: now. It stays the same
            for all questions, so that what was read stays their beginning.
        owner: Who reads it, for turns between users; "" is nobody.

    Raises:
        ValueError: A page that the document does not have, or none.
        DocumentError: The pages have no text, or the model's chat template cannot be used.
    """

    def __init__(
        self,
        engine: Engine,
        document: Document,
        page_numbers: Sequence[int],
        config: CompressionConfig,
        scaling: RopeScaling | None = None,
        moment: datetime | None = None,
        *,
        owner: str = "",
    ) -> None:
        self.document = document
        self.moment = moment or datetime.now()
        self.page_numbers = tuple(sorted(set(page_numbers)))
        self.config, self.scaling = config, scaling
        self._engine, self._owner = engine, owner
        self._pages = _choose_pages(document, self.page_numbers)
        self._prompt = build_prompt(engine, self._pages, self.moment)
        self._first_tokens: list[int] = []
        self._conversation: Conversation | None = None
        self._job: Job | None = None
        self._is_read = False

    @property
    def is_read(self) -> bool:
        """True when questions can be asked."""
        return self._is_read

    def read(self) -> Job:
        """Read the pages into a new cache.

        The job's events are `PrefillProgress`, then `RereadProgress` if the config wants a second
        reading; of a text in several blocks, both for each.

        Raises:
            ContextLengthError: The pages do not fit the model's context; nothing is ever cut off.
                It offers scalings that would make room.
        """
        self._check_fit()
        self.close()
        self._first_tokens = _first_tokens(self._engine, self._prompt)
        conversation = self._conversation = self._engine.new_conversation(self.config, self.scaling)
        self._job = self._engine.submit(
            lambda: self._reading(conversation), Order(owner=self._owner, is_large=True)
        )
        return self._job

    def _reading(self, conversation: Conversation) -> Generator[Event, None, None]:
        with closing(conversation.read(self._prompt.prefix)) as events:
            yield from events
        # after a close() during the reading, this cache is nobody's
        self._is_read = conversation is self._conversation

    def _check_fit(self) -> None:
        counts = count_pages(self._engine, replace(self.document, pages=self._pages))
        fit = plan_fit(self._engine, counts, self.page_numbers, scaling=self.scaling)
        if fit.fits:
            return
        raise _too_long(fit, self.page_numbers, self._engine.scalings_for(fit.num_tokens))

    def progress(self, event: PrefillProgress) -> ReadProgress:
        """Say which page the first reading is at, how fast it goes and how long it takes."""
        tok_s = event.num_done / event.elapsed_s if event.elapsed_s > 0 else 0.0
        left_s = (event.num_total - event.num_done) / tok_s if tok_s > 0 else None
        index = max(bisect_right(self._first_tokens, event.num_done - 1), 1)
        return ReadProgress(
            page=self._prompt.spans[index - 1].number,
            num_pages=len(self._prompt.spans),
            num_done=event.num_done,
            num_total=event.num_total,
            tok_s=tok_s,
            left_s=event.block.left_s(event.elapsed_s) if event.block else left_s,
            block=event.block,
        )

    def ask(self, question: str, sampling: SamplingParams) -> Job:
        """Answer from the pages read; the cache goes back to them before the next question.

        The answer begins with `ANSWER_LEAD`, so that it names a page; the number is the model's.

        Raises:
            CacheStateError: The pages were not read yet.
            ValueError: There is no question.
        """
        conversation = self._conversation
        if conversation is None or not self._is_read:
            raise CacheStateError("The document has not been read yet. Read it first, then ask.")
        if not question.strip():
            raise ValueError("There is no question. Write one about the document.")
        text = self._prompt.prefix + self._prompt.suffix(self._engine, question)
        self._job = self._engine.submit(
            lambda: _answering(conversation, text, sampling), Order(owner=self._owner)
        )
        return self._job

    def cited_pages(self, answer: str) -> tuple[int, ...]:
        """List the pages that an answer names and that were read, in the order of naming."""
        return find_cited_pages(answer, {span.number for span in self._prompt.spans})

    def usage(self) -> CacheUsage | None:
        """Measure the cache; None before there is one."""
        return self._conversation.usage() if self._conversation else None

    def page_shares(self) -> list[tuple[int, float]]:
        """Give each page read with the share of its key-value pairs still held, in [0, 1]."""
        if self._conversation is None or not self._is_read:
            return []
        num_tokens = len(self._engine.token_offsets(self._prompt.prefix))
        ends = [*self._first_tokens[1:], num_tokens]
        ranges = list(zip(self._first_tokens, ends, strict=True))
        numbers = [span.number for span in self._prompt.spans]
        return list(zip(numbers, self._conversation.kept_shares(ranges), strict=True))

    def close(self) -> None:
        """End what runs and free the cache; `read` makes a new one."""
        conversation, job = self._conversation, self._job
        self._is_read, self._conversation, self._job = False, None, None
        if conversation is None:
            return
        if job is None or job.wait(0):
            conversation.close()
            return
        # the engine's thread may be inside the cache: let it free the cache when it is out
        job.cancel()
        self._engine.submit(lambda: _closing(conversation), Order(owner=self._owner, is_small=True))


def _too_long(
    fit: Fit, page_numbers: Sequence[int], offers: tuple[RopeScaling, ...]
) -> ContextLengthError:
    num_chosen, num_fitting = len(page_numbers), fit.num_pages_that_fit
    fitting = format_page_ranges(page_numbers[:num_fitting])
    advice = f"choose pages {fitting} or fewer" if fitting else "choose shorter pages"
    scaled = f", have positions scaled ({offers[0]})" if offers else ""
    return ContextLengthError(
        f"The {num_chosen} chosen pages need {fit.num_tokens:,} tokens, room for an answer "
        f"included, but the model's context holds {fit.capacity_tokens:,}: {num_fitting} of "
        f"{num_chosen} pages fit. Nothing was cut off; {advice}{scaled}, or take a model with a "
        "longer context.",
        num_tokens=fit.num_tokens,
        context_length=fit.capacity_tokens,
        offers=offers,
    )


def _answering(
    conversation: Conversation, text: str, sampling: SamplingParams
) -> Generator[Event, None, None]:
    is_lead_due = True
    with closing(conversation.reply(text, sampling)) as events:
        for event in events:
            if is_lead_due and isinstance(event, TextDelta):
                is_lead_due = False
                yield TextDelta(ANSWER_LEAD)
            yield event


def _closing(conversation: Conversation) -> Generator[Event, None, None]:
    conversation.close()
    yield from ()


def _choose_pages(document: Document, page_numbers: Sequence[int]) -> tuple[Page, ...]:
    pages = {page.number: page for page in document.pages}
    missing = [number for number in page_numbers if number not in pages]
    if missing or not page_numbers:
        what = f"no page {format_page_ranges(missing)}" if missing else "no page chosen"
        raise ValueError(f"{document.name} has {what}; choose from pages 1 to {len(pages)}.")
    return tuple(pages[number] for number in page_numbers)


def _first_tokens(engine: Engine, prompt: DocumentPrompt) -> list[int]:
    """Find the first token of each page in the prefix."""
    offsets = engine.token_offsets(prompt.prefix)
    return [bisect_right(offsets, span.start) - 1 for span in prompt.spans]
