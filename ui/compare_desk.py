"""One question on two settings of the cache, one after the other. Knows the engine; no widget."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from nexusquant.chat_config import chat_config
from nexusquant.config import CompressionConfig, SamplingParams
from nexusquant.documents import Document, DocumentSession
from nexusquant.engine import Engine, Event, Job, Message, Order
from ui.following import POLL_S, STILL_S, Follower, Phase, Snapshot
from ui.model_desk import ModelDesk

NOTHING = Snapshot(Phase.DONE)


@dataclass(frozen=True)
class Question:
    """What is asked on both sides.

    Args:
        text: The question.
        document: What it is about, or None for the model's own knowledge.
        page_numbers: Pages of the document to read.
    """

    text: str
    document: Document | None = None
    page_numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Side:
    """One of the two runs: its settings and how far it is."""

    config: CompressionConfig
    now: Snapshot


class CompareDesk:
    """Two runs of the same question that share the engine in turn.

    Args:
        engine: Where the work is done.
        models: Says whether a model is there.
        owner: Whose it is, for turns between users.
    """

    def __init__(self, engine: Engine, models: ModelDesk, owner: str = "") -> None:
        self._engine, self._owner = engine, owner
        self._models = models
        self._runs: tuple[Follower, ...] = ()
        self._configs: tuple[CompressionConfig, ...] = ()

    @property
    def is_busy(self) -> bool:
        """True until both runs ended."""
        return any(not run.is_over for run in self._runs)

    def start(
        self,
        question: Question,
        configs: tuple[CompressionConfig, CompressionConfig],
        sampling: SamplingParams,
    ) -> None:
        """Ask on both settings, always taking the likeliest token, so that only the cache differs.

        Raises:
            ValueError: A comparison is running already.
        """
        if self.is_busy:
            raise ValueError("Wait for the comparison that is running, or stop it first.")
        greedy = replace(sampling, temperature=0.0, seed=0)
        first = self._follow(question, configs[0], greedy, None)
        self._runs = (first, self._follow(question, configs[1], greedy, first))
        self._configs = configs

    def stop(self) -> None:
        """End both runs before the engine's next step."""
        for run in self._runs:
            run.stop()

    def sides(self) -> tuple[Side, ...]:
        """Both runs now; empty before the first comparison."""
        return tuple(
            Side(config, run.snapshot())
            for config, run in zip(self._configs, self._runs, strict=True)
        )

    def updates(self, interval_s: float = POLL_S) -> Iterator[tuple[Side, ...]]:
        """Both sides at once, then after each change at most every interval, to the end."""
        last, told_at = self.sides(), time.monotonic()
        yield last
        while self.is_busy:
            self._runs[-1].wait(interval_s)
            now = self.sides()
            # see `Follower.snapshots`
            if now != last or time.monotonic() - told_at >= STILL_S:
                told_at = time.monotonic()
                yield now
            last = now
        yield self.sides()

    def _follow(
        self,
        question: Question,
        config: CompressionConfig,
        sampling: SamplingParams,
        before: Follower | None,
    ) -> Follower:
        def may_begin() -> bool:
            return (before is None or before.is_over) and self._models.may_begin()

        document = question.document
        if document is None:
            return Follower(
                lambda: self._engine.submit(
                    lambda: self._reply(question.text, config, sampling),
                    Order(owner=self._owner),
                ),
                may_begin=may_begin,
            )
        return self._follow_on_document(document, question, config, sampling, may_begin)

    def _follow_on_document(
        self,
        document: Document,
        question: Question,
        config: CompressionConfig,
        sampling: SamplingParams,
        may_begin: Callable[[], bool],
    ) -> Follower:
        sessions: list[DocumentSession] = []

        def read() -> Job:
            sessions.append(
                DocumentSession(
                    self._engine, document, question.page_numbers, config, owner=self._owner
                )
            )
            return sessions[0].read()

        def close(_: Snapshot) -> None:
            for session in sessions:
                session.close()

        return Follower(
            read,
            lambda: sessions[0].ask(question.text, sampling),
            may_begin=may_begin,
            at_end=close,
        )

    def _reply(
        self, text: str, config: CompressionConfig, sampling: SamplingParams
    ) -> Generator[Event, None, None]:
        prompt = self._engine.render([Message("user", text)], add_generation_prompt=True)
        # as the Chat tab would answer
        with closing(self._engine.new_conversation(chat_config(config))) as conversation:
            yield from conversation.reply(prompt, sampling)
