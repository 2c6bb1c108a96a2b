"""The state behind the Chat tab of one person: messages, what runs, what it measured.

Knows the engine's chat; no widget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nexusquant.config import CompressionConfig, RopeScaling, SamplingParams
from nexusquant.engine import (
    ChatSession,
    Engine,
    GenerationStats,
    Job,
    Message,
    ModelInfo,
    Order,
)
from nexusquant.engine.stats import CacheUsage
from nexusquant.errors import ContextLengthError
from ui.following import Follower, Phase, Snapshot, run_once
from ui.model_desk import ModelDesk

EMPTY = Snapshot(Phase.DONE)
MODEL_CHANGED = "*The model was changed here. It has not read the messages above.*"


class ChatDesk:
    """One chat: at most one request at a time; a second one is refused, not queued.

    Args:
        engine: Where the work is done.
        models: Says whether a model is there.
        config: Compression of the first turn.
        owner: Whose it is, for turns between users.
    """

    def __init__(
        self, engine: Engine, models: ModelDesk, config: CompressionConfig, owner: str = ""
    ) -> None:
        self._engine, self._owner = engine, owner
        self._models = models
        self._session: ChatSession | None = None
        self._info: ModelInfo | None = None
        self._applied = config
        self._is_parked = False
        self._archive: list[Message] = []
        self._base: list[Message] = []
        self._follower: Follower | None = None
        self.config = config
        self.scaling: RopeScaling | None = None

    @property
    def is_busy(self) -> bool:
        """True while a request of this chat has not ended."""
        return self._follower is not None and not self._follower.is_over

    @property
    def will_read_again(self) -> bool:
        """True when the next turn has to read the whole conversation with new settings."""
        return bool(self._session and self._session.messages) and self.config != self._applied

    def send(self, text: str, sampling: SamplingParams) -> bool:
        """Ask `text`; False when a request is still running and nothing was done."""
        if self.is_busy:
            return False
        self._base = [*self.messages(), Message("user", text)]
        return self._start(lambda: self._ready_session().send(text, sampling))

    def regenerate(self, sampling: SamplingParams) -> bool:
        """Answer the last question again; False when there is none or a request is running."""
        kept = self.messages()
        while kept and kept[-1].role == "assistant":
            kept.pop()
        if self.is_busy or not kept:
            return False
        self._base = kept
        return self._start(lambda: self._ready_session().regenerate(sampling))

    def offer(self) -> RopeScaling | None:
        """What would make room for the question that was just refused; None when none was."""
        error = self.snapshot().error
        offers = error.offers if isinstance(error, ContextLengthError) else ()
        return offers[0] if offers else None

    def take_offer(self, sampling: SamplingParams) -> bool:
        """Scale this chat's positions from now on and answer the question that was refused."""
        offer = self.offer()
        if offer is None or self.is_busy:
            return False
        self.scaling = offer
        return self.regenerate(sampling)

    def stop(self) -> None:
        """End the running request before the engine's next step."""
        if self._follower is not None:
            self._follower.stop()

    def clear(self) -> None:
        """Forget the conversation; its cache is freed once the engine has let go of it."""
        self.stop()
        session, self._session = self._session, None
        self._archive, self._base, self._follower = [], [], None
        self.scaling = None
        if session is not None:
            order = Order(owner=self._owner, is_small=True)
            self._engine.submit(lambda: run_once(session.clear), order)

    def held_bytes(self) -> int:
        """KV bytes held while nothing runs; 0 while something does."""
        usage = None if self.is_busy or self._is_parked else self.usage()
        return usage.stored_bytes if usage else 0

    def put_away(self) -> None:
        """Free the cache and keep the words; the next turn reads them again."""
        if self._session is None or self.is_busy:
            return
        self._session.release()
        self._is_parked = True

    def snapshot(self) -> Snapshot:
        """The newest request now; a finished empty one when there was none."""
        return self._follower.snapshot() if self._follower else EMPTY

    def snapshots(self) -> Iterator[Snapshot]:
        """The newest request from now to its end."""
        yield from self._follower.snapshots() if self._follower else (EMPTY,)

    def messages(self) -> list[Message]:
        """What the page shows: all turns, and the answer as far as it is."""
        now = self.snapshot()
        if now.phase.is_over:
            return [*self._archive, *(self._session.messages if self._session else [])]
        answer = [Message("assistant", now.text)] if now.text else []
        return [*self._base, *answer]

    def turns(self) -> list[GenerationStats]:
        """Figures of all turns that ended."""
        return self._session.turns if self._session else []

    def usage(self) -> CacheUsage | None:
        """The cache at the end of the last turn that was not stopped; None before the first."""
        return self._session.usage() if self._session else None

    def unsent_text(self) -> str:
        """The last question if the chat did not take it (no model, say), else nothing."""
        if self.snapshot().phase not in (Phase.FAILED, Phase.STOPPED) or not self._base:
            return ""
        asked = self._base[-1]
        return "" if asked in self.messages()[-1:] else asked.content

    def _start(self, begin: Callable[[], Job]) -> bool:
        self._follower = Follower(begin, may_begin=self._models.may_begin)
        return True

    def _ready_session(self) -> ChatSession:
        session = self._session
        if session is None or self._info is not self._engine.info:
            session = self._begin_session()
        if self.config != self._applied:
            session.change_config(self.config)
            self._applied = self.config
        session.change_scaling(self.scaling)
        self._is_parked = False
        return session

    def _begin_session(self) -> ChatSession:
        if self._session is not None and self._session.messages:
            self._archive += [*self._session.messages, Message("assistant", MODEL_CHANGED)]
        if self._session is not None:
            # another model was made for another length
            self.scaling = None
        session = self._session = ChatSession(self._engine, self.config, owner=self._owner)
        self._info, self._applied = self._engine.info, self.config
        return session
