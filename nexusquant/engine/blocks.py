"""A long text in blocks: where each begins and ends, and how far the whole work is.

Knows counts and events. Must not know models, caches or bytes.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from nexusquant.config import PAGE_SIZE, CompressionConfig
from nexusquant.engine.events import BlockProgress, PrefillProgress, RereadProgress

Result = TypeVar("Result")
Progress = PrefillProgress | RereadProgress


def block_ends(num_tokens: int, span: int, recent_window: int) -> list[int]:
    """Where the blocks of a text end: as few as can be, and as even.

    Args:
        num_tokens: Tokens of the text, 1 or more.
        span: Tokens that may be exact at once.
        recent_window: Of these, tokens that the block before leaves exact.
    """
    count = _num_blocks(num_tokens, span, recent_window)
    return [_block_end(num_tokens, number, count) for number in range(1, count + 1)]


def last_block(num_tokens: int, span: int, recent_window: int) -> range:
    """The last of the blocks that `block_ends` tells, without going through all others."""
    count = _num_blocks(num_tokens, span, recent_window)
    return range(_block_end(num_tokens, count - 1, count), num_tokens)


def _num_blocks(num_tokens: int, span: int, recent_window: int) -> int:
    if num_tokens <= span:
        return 1
    return -(-num_tokens // max(span - recent_window, PAGE_SIZE))


def _block_end(num_tokens: int, number: int, count: int) -> int:
    return -(-num_tokens * number // count)


class Blocks:
    """The blocks of one text while it is read.

    Args:
        num_tokens: Tokens of the text.
        span: Tokens that may be exact at once.
        config: What is done with them.
    """

    def __init__(self, num_tokens: int, span: int, config: CompressionConfig) -> None:
        ends = block_ends(num_tokens, num_tokens if config.is_off else span, config.recent_window)
        self.ranges = [range(*ends_of) for ends_of in zip([0, *ends], ends, strict=False)]
        self._num_tokens = num_tokens
        self._num_readings = 1 + config.reads_twice(num_tokens)
        self._num_reread = 0
        self._started = time.perf_counter()

    def counted(
        self, events: Generator[Progress, None, Result], block: range
    ) -> Generator[Progress, None, Result]:
        """One reading of a block, with its progress counted over the whole text."""
        with closing(events):
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    return end.value
                yield event if len(self.ranges) == 1 else self._of_whole(event, block)

    def _of_whole(self, event: Progress, block: range) -> Progress:
        elapsed = time.perf_counter() - self._started
        done, total, share = event.num_done, event.num_total, event.num_done / event.num_total
        if isinstance(event, PrefillProgress):
            work_done = self._num_readings * block.start + share * len(block)
            done, total = block.start + done, self._num_tokens
        else:
            work_done = block.start + block.stop + share * len(block)
            is_read, done = done == total, self._num_reread + done
            total += self._num_reread + self._num_tokens - block.stop
            self._num_reread = done if is_read else self._num_reread
        share = work_done / (self._num_readings * self._num_tokens)
        where = BlockProgress(self.ranges.index(block) + 1, len(self.ranges), share)
        return replace(event, num_done=done, num_total=total, elapsed_s=elapsed, block=where)
