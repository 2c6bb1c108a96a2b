"""What Gradio knows of the page's events: the one place that looks into its queue.

Knows Gradio's queue. Must not know what is done with the answers, or HTTP.
"""

from __future__ import annotations

from collections import OrderedDict

import gradio as gr

MAX_SESSIONS_PER_USER = 128
"""Each takes some 0.3 MB, and Gradio keeps messages for 2,000 of all users."""


class PageEvents:
    """The events of a page that is served.

    Args:
        page: The page.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self._page = page

    def is_known(self, fn_index: int, num_values: int, *, is_queued: bool) -> bool:
        """Whether the page has this event, and calls it in this way with so many values."""
        event = self._page.fns.get(fn_index)
        return (
            event is not None and bool(event.queue) == is_queued and len(event.inputs) == num_values
        )

    def num_alive(self, user: str | None) -> int:
        """Events of a user that wait or run, those of pages that were left too."""
        queue = self._page._queue
        waiting = [one for one in list(queue.event_ids_to_events.values()) if one.alive]
        running = [one for job in list(queue.active_jobs) for one in job or ()]
        events = {id(one): one for one in (*waiting, *running)}
        return sum(event.username == user for event in events.values())

    def forget(self, session_hash: str) -> None:
        """Drop what Gradio keeps for a session, so that no user's sessions push out another's."""
        queue = self._page._queue
        queue.pending_messages_per_session.pop(session_hash, None)
        queue.pending_event_ids_session.pop(session_hash, None)
        holder = getattr(queue.server_app, "state_holder", None)
        if holder is not None:
            holder.session_data.pop(session_hash, None)

    def is_of(self, event_id: str, user: str | None) -> bool:
        """False for an event that is somebody else's."""
        event = self._page._queue.event_ids_to_events.get(event_id)
        return event is None or event.username == user


class SessionOwners:
    """Whose session a hash is: who names it first, to the end."""

    def __init__(self) -> None:
        self._by_hash: dict[str, str] = {}
        self._of_user: dict[str, OrderedDict[str, None]] = {}

    def claim(self, session_hash: str, user: str) -> bool:
        """Give the session to `user` if it is nobody's; whether it is theirs now."""
        if not self.may_use(session_hash, user):
            return False
        own = self._of_user.setdefault(user, OrderedDict())
        own[session_hash] = None
        own.move_to_end(session_hash)
        self._by_hash[session_hash] = user
        return True

    def drop_surplus(self, user: str) -> list[str]:
        """This user's own oldest sessions that are too many, which are nobody's from now on."""
        own, dropped = self._of_user.get(user, OrderedDict()), []
        while len(own) > MAX_SESSIONS_PER_USER:
            dropped.append(own.popitem(last=False)[0])
            del self._by_hash[dropped[-1]]
        return dropped

    def may_use(self, session_hash: str, user: str) -> bool:
        """Whether the session is nobody's or this user's."""
        return self._by_hash.get(session_hash, user) == user

    def is_of(self, session_hash: str, user: str) -> bool:
        """Whether the session is this user's already."""
        return self._by_hash.get(session_hash) == user
