"""Token ids to text as they arrive: whole characters only, and nothing of a stop text.

Knows a tokenizer's `decode`. Must not know a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of the ids."""
        ...


class Detokenizer:
    """Turns a stream of token ids into a stream of text.

    A character may be spread over several tokens; it is held back until it is complete. So is
    text that could be the beginning of a stop text.

    Args:
        tokenizer: Decodes ids.
        stop: Texts that end the stream; they are not given out.
    """

    def __init__(self, tokenizer: Decoder, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._num_settled = 0
        self._held = ""
        self.text = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """Take one id; return the text that can be shown now, maybe none."""
        self._ids.append(token_id)
        fresh = self._fresh_text()
        if fresh is None:
            return ""
        return self._release(self._held + fresh, is_last=False)

    def finish(self) -> str:
        """Return what was held back: nothing more will come."""
        return "" if self.is_stopped else self._release(self._held + self._tail(), is_last=True)

    def _fresh_text(self) -> str | None:
        """Text of the ids since the last whole character, or None while one is incomplete."""
        fresh = self._tail()
        if fresh.endswith("\ufffd"):
            return None
        self._num_settled = len(self._ids)
        return fresh

    def _tail(self) -> str:
        # decoded together with a few settled ids: some tokenizers drop a leading space otherwise
        start = max(0, self._num_settled - 4)
        whole = self._decode(self._ids[start:])
        return whole[len(self._decode(self._ids[start : self._num_settled])) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _release(self, text: str, *, is_last: bool) -> str:
        ends = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.is_stopped = True
            text, self._held = text[: min(ends)], ""
        elif is_last:
            self._held = ""
        else:
            num_held = max((_overlap(text, stop) for stop in self._stop), default=0)
            self._held = text[len(text) - num_held :]
            text = text[: len(text) - num_held]
        self.text += text
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
