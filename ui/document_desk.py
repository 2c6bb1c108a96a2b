"""The state behind the Documents tab of one person: the file, its pages, its compressed cache.

Knows documents and the engine; no widget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nexusquant.config import CompressionConfig, RopeScaling, SamplingParams
from nexusquant.documents import (
    Document,
    DocumentSession,
    Fit,
    PageCount,
    ReadProgress,
    count_pages,
    parse_page_ranges,
    plan_fit,
)
from nexusquant.engine import Engine, Finished, Job, Message, ModelInfo, PrefillProgress
from nexusquant.engine.stats import CacheUsage
from ui.following import Follower, Phase, Snapshot
from ui.model_desk import ModelDesk

IDLE = Snapshot(Phase.DONE)


@dataclass
class OpenDocument:
    """A file whose text is known.

    Args:
        document: Its pages.
        pages_text: What the page picker says, as long as it makes sense.
        counts: Tokens of each page; None until there is a model to count with.
        counted_by: The model whose tokens these are.
    """

    document: Document
    pages_text: str = "all"
    counts: tuple[PageCount, ...] | None = None
    counted_by: ModelInfo | None = None


@dataclass
class ReadDocument:
    """Pages that are in a cache of their own, and what was asked of them."""

    session: DocumentSession
    page_numbers: tuple[int, ...]
    config: CompressionConfig
    read_by: ModelInfo | None
    shares: tuple[tuple[int, float], ...] = ()
    asked: list[Message] = field(default_factory=list)
    cited: tuple[int, ...] = ()
    last: Finished | None = None


class DocumentDesk:
    """One document at a time: open, choose pages, read once, ask often.

    Args:
        engine: Where the work is done.
        models: Says whether a model is there.
        owner: Whose it is, for turns between users.
    """

    def __init__(self, engine: Engine, models: ModelDesk, owner: str = "") -> None:
        self._engine, self._owner = engine, owner
        self._models = models
        self._follower: Follower | None = None
        self._question = ""
        self.pending_upload: str | None = None
        self.opened: OpenDocument | None = None
        self.scaling: RopeScaling | None = None
        self.read: ReadDocument | None = None

    @property
    def is_busy(self) -> bool:
        """True while pages are being read or a question is being answered."""
        return self._follower is not None and not self._follower.is_over

    @property
    def is_asking(self) -> bool:
        """True when the newest request was a question."""
        return bool(self._question)

    @property
    def is_read(self) -> bool:
        """True when questions can be asked: pages are in a cache of the model in use."""
        read = self.read
        return read is not None and read.session.is_read and read.read_by is self._engine.info

    def open(self, document: Document) -> OpenDocument:
        """Put `document` on the desk; the one before it is closed."""
        self.close()
        self.opened = OpenDocument(document)
        return self.opened

    def close(self) -> None:
        """Clear the desk; the cache is freed once the engine has let go of it."""
        self.stop()
        self.put_away()
        self.opened = self._follower = self.scaling = None
        self._question = ""

    def put_away(self) -> None:
        """Free the cache and keep the text; the pages must be read again to ask."""
        read, self.read = self.read, None
        if read is not None:
            read.session.close()

    def forget_questions(self) -> None:
        """Take questions and answers off the desk; what was read stays."""
        if self.read is not None and not self.is_busy:
            self.read.asked, self.read.cited, self.read.last = [], (), None

    def stop(self) -> None:
        """End what runs before the engine's next step, and the reading of a file."""
        self.pending_upload = None
        if self._follower is not None:
            self._follower.stop()

    def counts(self) -> tuple[PageCount, ...] | None:
        """Tokens of each page by the model in use; None while there is no model or no file."""
        opened = self.opened
        if opened is None or self._engine.info is None or self._models.is_loading:
            return None
        if opened.counted_by is not self._engine.info:
            opened.counts = count_pages(self._engine, opened.document)
            opened.counted_by = self._engine.info
        return opened.counts

    def chosen(self, pages_text: str) -> tuple[int, ...]:
        """Page numbers of what the page picker says.

        Raises:
            ValueError: It cannot be understood, or names a page that is not there.
        """
        if self.opened is None:
            raise ValueError("Open a file first.")
        numbers = parse_page_ranges(pages_text, len(self.opened.document.pages))
        self.opened.pages_text = pages_text
        return numbers

    def fit(self, pages_text: str) -> Fit | None:
        """Whether the chosen pages fit; None when tokens cannot be counted yet.

        Raises:
            ValueError: As `chosen`.
        """
        counts, chosen = self.counts(), self.chosen(pages_text)
        if counts is None:
            return None
        return plan_fit(self._engine, counts, chosen, scaling=self.scaling)

    def offer(self, fit: Fit | None) -> RopeScaling | None:
        """What would make room for pages that do not fit; None where nothing would."""
        if fit is None or fit.fits:
            return None
        offers = self._engine.scalings_for(fit.num_tokens)
        return offers[0] if offers else None

    def start_reading(self, pages_text: str, config: CompressionConfig) -> None:
        """Read the chosen pages into a new cache.

        Raises:
            ValueError: Something is still running, or as `chosen`.
        """
        if self.is_busy:
            raise ValueError("Wait for what is running, or stop it first.")
        chosen = self.chosen(pages_text)
        self.put_away()
        self._question = ""
        self._follower = Follower(
            lambda: self._begin_reading(chosen, config),
            may_begin=self._models.may_begin,
            at_end=self._note_reading,
        )

    def start_asking(self, question: str, sampling: SamplingParams) -> None:
        """Ask the pages that were read.

        Raises:
            ValueError: Something is still running, or nothing was read with this model.
        """
        if self.is_busy:
            raise ValueError("Wait for what is running, or stop it first.")
        if self.read is None or not self.is_read:
            raise ValueError("Read the pages first; this model has not seen them.")
        self._question = question
        session = self.read.session
        self._follower = Follower(
            lambda: session.ask(question, sampling),
            may_begin=self._models.may_begin,
            at_end=self._note_answer,
        )

    def snapshot(self) -> Snapshot:
        """The newest request now."""
        return self._follower.snapshot() if self._follower else IDLE

    def snapshots(self) -> Iterator[Snapshot]:
        """The newest request from now to its end."""
        yield from self._follower.snapshots() if self._follower else (IDLE,)

    def read_progress(self, now: Snapshot) -> ReadProgress | None:
        """How far the first reading is, by page; None in the second and while one asks."""
        if self.read is None or self.is_asking or not isinstance(now.progress, PrefillProgress):
            return None
        return self.read.session.progress(now.progress)

    def messages(self) -> list[Message]:
        """Questions and answers so far, with the one being written."""
        done = list(self.read.asked) if self.read else []
        if not (self.is_asking and self.is_busy):
            return done
        now = self.snapshot()
        running = [Message("user", self._question)]
        return done + running + ([Message("assistant", now.text)] if now.text else [])

    def usage(self) -> CacheUsage | None:
        """The cache as last measured; None while it is being filled."""
        if self.read is None or not self.read.session.is_read:
            return None
        if self.is_busy:
            return self.read.last.stats.usage if self.read.last else None
        return self.read.session.usage()

    def held_bytes(self) -> int:
        """KV bytes held while nothing runs; 0 while something does."""
        usage = None if self.is_busy else self.usage()
        return usage.stored_bytes if usage else 0

    def _begin_reading(self, chosen: tuple[int, ...], config: CompressionConfig) -> Job:
        if self.opened is None:
            raise ValueError("The file was closed.")
        session = DocumentSession(
            self._engine,
            self.opened.document,
            chosen,
            config,
            self.scaling,
            owner=self._owner,
        )
        self.read = ReadDocument(session, chosen, config, self._engine.info)
        return session.read()

    def _note_reading(self, _: Snapshot) -> None:
        if self.read is not None and self.read.session.is_read:
            self.read.shares = tuple(self.read.session.page_shares())

    def _note_answer(self, now: Snapshot) -> None:
        if self.read is None:
            return
        self.read.asked.append(Message("user", self._question))
        if now.text:
            self.read.asked.append(Message("assistant", now.text))
        self.read.cited = self.read.session.cited_pages(now.text)
        self.read.last = now.finished or self.read.last
