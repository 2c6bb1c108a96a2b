"""One compressed cache and the text that is in it.

Knows which text the cache holds, and the moments it can go back to. Must not know roles,
templates or pages. A prompt is given whole; what the cache holds of it already is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Generator as Events
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from nexusquant.cache import CacheMark, CacheUsage, CompressedCache
from nexusquant.config import CompressionConfig, RopeScaling, SamplingParams
from nexusquant.engine.events import (
    Finished,
    FinishReason,
    PrefillProgress,
    RereadProgress,
    TextDelta,
)
from nexusquant.engine.generator import Generator
from nexusquant.engine.model_loader import LoadedModel


@dataclass(frozen=True)
class _Checkpoint:
    text: str
    mark: CacheMark
    num_ids: int
    # the end of `text` that the cache has not seen
    unread_ids: tuple[int, ...] = ()


class Conversation:
    """Text in a compressed cache that grows at its end, and can go back.

    Every method that yields must run on the engine's thread.

    Args:
        loaded: The model.
        config: What to compress.
        scaling: How positions are scaled, for a text beyond the trained length; None: not at all.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        config: CompressionConfig,
        scaling: RopeScaling | None = None,
    ) -> None:
        self.config, self.scaling = config, scaling
        self._loaded = loaded
        self._generator = Generator(loaded, scaling)
        self._cache: CompressedCache | None = None
        # text in the cache right now; None while unknown, after a stop
        self._live_text: str | None = ""
        # the tokens of that text that the cache has seen, and those it has not: an answer that was
        # cut off ends with a token that was never fed back
        self._ids: list[int] = []
        self._unread_ids: list[int] = []
        # kept for good: a document; and the last turn's beginning
        self._pinned: _Checkpoint | None = None
        self._turn: _Checkpoint | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens the cache has seen."""
        return self._cache.num_seen_tokens if self._cache else 0

    def read(self, text: str) -> Events[PrefillProgress | RereadProgress, None, None]:
        """Put `text` into an empty cache and pin it: answers will rewind to its end.

        Raises:
            ValueError: No text.
            ContextLengthError: More than the context holds; offers what would make room.
        """
        self.close()
        try:
            ids = self._token_ids(text, is_start=True)
            yield from self._generator.prefill(ids, self._open())
            self._pin(text, ids)
        finally:
            if self._pinned is None:
                self.close()

    def reply(
        self, text: str, params: SamplingParams, pinned_text: str = ""
    ) -> Events[PrefillProgress | RereadProgress | TextDelta | Finished, None, str]:
        """Answer the prompt `text`, of which the cache may hold a beginning already.

        Args:
            text: The whole prompt, from the first character on.
            params: How to answer.
            pinned_text: Beginning of `text` that is never evicted.

        Returns:
            The answer.

        Raises:
            ContextLengthError: More than the context holds; offers what would make room.
        """
        asked = time.perf_counter()
        rest = self._go_back_to_prefix(text)
        cache = self._open()
        is_start = cache.num_seen_tokens == 0
        token_ids = self._unread_ids + self._token_ids(rest, is_start=is_start)
        # the past turn cannot be answered again from here on: eviction may touch it
        self._turn = None
        num_new = len(token_ids)
        least = self._least_to_settle(num_new)
        yield from self._generator.settle(self._ids, cache, least, num_new)
        if is_start and pinned_text:
            cache.pin(range(len(self._token_ids(pinned_text, is_start=True))))
        begun, unread = text[: len(text) - len(rest)], tuple(self._unread_ids)
        self._turn = _Checkpoint(begun, cache.mark(), len(self._ids), unread)
        self._live_text = None
        answer = ""
        with closing(self._generator.generate(token_ids, cache, params, asked)) as events:
            for event in events:
                answer += event.text if isinstance(event, TextDelta) else ""
                if isinstance(event, Finished) and not params.stop:
                    self._note_end(event, token_ids, text + answer)
                yield event
        return answer

    def _least_to_settle(self, num_new: int) -> int | None:
        """A long prompt is decided on once it is read; what waits before it never would be."""
        eviction = self.config.eviction
        if eviction is None:
            return None
        return 1 if num_new >= eviction.min_span else eviction.settle_span or None

    def _note_end(self, event: Finished, token_ids: list[int], text: str) -> None:
        """The cache holds the prompt and the whole answer, but for a last token at most."""
        if event.reason is FinishReason.CONTEXT:
            return
        self._live_text = text
        self._ids += [*token_ids, *event.new_ids[:-1]]
        is_cut = event.reason is FinishReason.LENGTH
        self._unread_ids = list(event.new_ids[-1:]) if is_cut else []

    def usage(self) -> CacheUsage:
        """Measure the cache."""
        return self._open().usage()

    def kept_shares(self, token_ranges: Iterable[tuple[int, int]]) -> list[float]:
        """Share of pairs still held in each range of tokens; see `CompressedCache.kept_shares`."""
        return self._open().kept_shares(token_ranges)

    def save(self, path: Path) -> None:
        """Write the pinned text's cache to a file.

        Raises:
            ValueError: Nothing was read.
            OSError: The file cannot be written.
        """
        if self._pinned is None:
            raise ValueError("There is nothing to save: read a text first.")
        self._cache.rewind(self._pinned.mark)
        self._live_text, self._turn = self._pinned.text, None
        del self._ids[self._pinned.num_ids :]
        self._unread_ids = []
        self._cache.save(path)

    def restore(self, path: Path, text: str) -> None:
        """Open what `save` wrote for `text`, and pin it.

        Raises:
            CacheStateError: The file is of another model, config or format, or damaged.
        """
        self.close()
        self._open().restore(path)
        self._pin(text, self._token_ids(text, is_start=True))

    def close(self) -> None:
        """Free the cache."""
        self._cache = self._pinned = self._turn = None
        self._live_text, self._ids, self._unread_ids = "", [], []

    def _open(self) -> CompressedCache:
        if self._cache is None:
            loaded = self._loaded
            self._cache = CompressedCache(loaded.model, self.config, loaded.profile, self.scaling)
        return self._cache

    def _pin(self, text: str, ids: list[int]) -> None:
        self._pinned = _Checkpoint(text, self._cache.mark(), len(ids))
        self._live_text, self._ids, self._unread_ids = text, ids, []

    def _go_back_to_prefix(self, text: str) -> str:
        """Make the cache hold the longest known beginning of `text`; return the rest."""
        live = self._live_text
        if self._cache is not None and live and text.startswith(live) and len(text) > len(live):
            return text[len(live) :]
        for checkpoint in (self._turn, self._pinned):
            if checkpoint is not None and text.startswith(checkpoint.text):
                self._cache.rewind(checkpoint.mark)
                self._live_text = checkpoint.text
                del self._ids[checkpoint.num_ids :]
                self._unread_ids = list(checkpoint.unread_ids)
                return text[len(checkpoint.text) :]
        self.close()
        return text

    def _token_ids(self, text: str, *, is_start: bool) -> list[int]:
        # a template writes its own special tokens; a tokenizer adds a first one only to a beginning
        bos = self._loaded.tokenizer.bos_token
        add = is_start and bool(bos) and not text.startswith(bos) and _adds_bos(self._loaded)
        ids = self._loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self._loaded.tokenizer.bos_token_id, *ids] if add else ids


def _adds_bos(loaded: LoadedModel) -> bool:
    first = loaded.tokenizer("a")["input_ids"][:1]
    return first == [loaded.tokenizer.bos_token_id]
