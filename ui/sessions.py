"""Who has which chat and documents on this server: found by id, guarded by owner, freed in time.

Knows desks; no widget. Ids alone travel to the browser.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nexusquant.config import CompressionConfig, SamplingParams
from ui.chat_desk import ChatDesk
from ui.compare_desk import CompareDesk
from ui.document_desk import DocumentDesk

MAX_WORKSPACES_PER_USER = 32
"""More of one person's pages than that: the one left longest ago ends, and its chat with it."""
GRACE_S = 120.0
"""A page that left may come back this long before its running work is stopped."""
RELOAD_S = 15.0
"""A page that is loaded again is back by then, also on a slow computer."""

BYTE_BUDGET = 4_000_000_000
"""KV bytes that idle chats and documents may hold together before some are put away."""


class NotYoursError(PermissionError):
    """The id belongs to somebody else."""


@dataclass
class Workspace:
    """Everything one browser tab works on.

    Args:
        id: Unguessable; part of the page's address.
        owner: Name the person logged in with, or "local".
        config: Compression in use.
        sampling: How answers are drawn.
        chat: The chat.
        documents: The document that is open.
        compare: The newest comparison.
        turn: Whose turn it is when it is this one's: a user, or a page where nobody logs in.
        waits_for_default: True while no preset was chosen and the model it depends on is loading.
        asked_preset: An unsafe preset that was chosen and waits for a yes.
        pages: Session hashes of the browser tabs that show it now.
        used_at: Monotonic time of the last use.
        left_at: Monotonic time when a page last went away.
    """

    id: str
    owner: str
    config: CompressionConfig
    sampling: SamplingParams
    chat: ChatDesk
    documents: DocumentDesk
    compare: CompareDesk
    turn: str = ""
    waits_for_default: bool = False
    asked_preset: str | None = None
    pages: set[str] = field(default_factory=set)
    used_at: float = field(default_factory=time.monotonic)
    left_at: float = field(default_factory=time.monotonic)

    def use_config(self, config: CompressionConfig) -> None:
        """Compress this way from the next turn, reading or comparison on."""
        self.config = self.chat.config = config
        self.waits_for_default, self.asked_preset = False, None

    @property
    def is_looked_at(self) -> bool:
        """Whether a page shows it, or one may be on its way back."""
        return bool(self.pages) or time.monotonic() - self.left_at < RELOAD_S

    def stop_all(self) -> None:
        """End everything that runs for this workspace."""
        for desk in (self.chat, self.documents, self.compare):
            desk.stop()

    def idle_bytes(self) -> int:
        """KV bytes held while nothing runs."""
        return self.chat.held_bytes() + self.documents.held_bytes()

    def put_away(self) -> None:
        """Free the idle caches; what was said stays and is read again when needed."""
        self.chat.put_away()
        if not self.documents.is_busy:
            self.documents.put_away()


class SessionStore:
    """All workspaces of this server.

    Args:
        make: Builds a workspace from its id and owner.
        grace_s: Seconds that work goes on after its last page has left.
        byte_budget: KV bytes that idle workspaces may hold together.
    """

    def __init__(
        self,
        make: Callable[[str, str], Workspace],
        *,
        grace_s: float = GRACE_S,
        byte_budget: int = BYTE_BUDGET,
    ) -> None:
        self._make = make
        self._grace_s = grace_s
        self._byte_budget = byte_budget
        self._by_id: dict[str, Workspace] = {}
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, wanted_id: str | None, owner: str) -> Workspace:
        """The workspace of this address if it is there and `owner`'s, else a new one."""
        with self._lock:
            found = self._by_id.get(wanted_id or "")
            if found is not None and found.owner == owner:
                return self._touch(found)
            return self._add(secrets.token_urlsafe(12), owner)

    def get(self, workspace_id: str, owner: str) -> Workspace:
        """The workspace of a page that is open; made anew if it was dropped meanwhile.

        Raises:
            NotYoursError: It belongs to somebody else.
        """
        with self._lock:
            found = self._by_id.get(workspace_id)
            if found is None:
                return self._add(workspace_id, owner)
            if found.owner != owner:
                raise NotYoursError("This chat belongs to somebody else.")
            return self._touch(found)

    def look(self, workspace_id: str, owner: str) -> Workspace | None:
        """The same without using it: a page that merely stays open must not look used."""
        with self._lock:
            found = self._by_id.get(workspace_id)
            return found if found is not None and found.owner == owner else None

    def attach(self, page: str | None, workspace: Workspace) -> None:
        """Note that a browser tab shows this workspace."""
        with self._lock:
            workspace.pages.add(page or "")

    def detach(self, page: str | None) -> None:
        """Note that a tab went away; if none comes back in time, its work is stopped."""
        with self._lock:
            left = [w for w in self._by_id.values() if (page or "") in w.pages]
            for workspace in left:
                workspace.pages.discard(page or "")
                workspace.left_at = time.monotonic()
            if left and self._timer is None:
                self._look_later()

    def _look_later(self) -> None:
        # one for all: pages may be left by the thousand
        self._timer = threading.Timer(self._grace_s, self._stop_deserted)
        self._timer.daemon = True
        self._timer.start()

    def make_room(self) -> None:
        """Put away idle caches until the byte budget holds: the oldest of who holds the most.

        The newest one of all stays: its owner is looking at it.
        """
        with self._lock:
            oldest_first = sorted(self._by_id.values(), key=lambda w: w.used_at)
            held = {w.id: w.idle_bytes() for w in oldest_first}
            idle = [w for w in oldest_first[:-1] if held[w.id]]
            while idle and sum(held.values()) > self._byte_budget:
                owner = max((w.owner for w in idle), key=lambda name: self._held_by(name, held))
                workspace = next(w for w in idle if w.owner == owner)
                workspace.put_away()
                idle.remove(workspace)
                held[workspace.id] = 0

    def all(self) -> list[Workspace]:
        """Every workspace there is."""
        with self._lock:
            return list(self._by_id.values())

    def close(self) -> None:
        """Stop everything that runs."""
        with self._lock:
            for workspace in self._by_id.values():
                workspace.stop_all()

    def _held_by(self, owner: str, held: dict[str, int]) -> int:
        return sum(held[w.id] for w in self._by_id.values() if w.owner == owner and w.id in held)

    def _add(self, workspace_id: str, owner: str) -> Workspace:
        own = [w for w in self._by_id.values() if w.owner == owner]
        if len(own) >= MAX_WORKSPACES_PER_USER:
            oldest = min(own, key=lambda w: (bool(w.pages), w.used_at))
            oldest.stop_all()
            oldest.put_away()
            del self._by_id[oldest.id]
        workspace = self._by_id[workspace_id] = self._make(workspace_id, owner)
        return workspace

    def _touch(self, workspace: Workspace) -> Workspace:
        workspace.used_at = time.monotonic()
        return workspace

    def _stop_deserted(self) -> None:
        with self._lock:
            self._timer = None
            for workspace in self._by_id.values():
                # another page's leaving must not cut short the time this one has to come back
                is_late = time.monotonic() - workspace.left_at >= self._grace_s
                if workspace.pages:
                    continue
                if is_late:
                    workspace.stop_all()
                elif self._timer is None:
                    self._look_later()
