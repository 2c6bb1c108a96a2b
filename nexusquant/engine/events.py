"""What the engine reports while it works, as frozen values. Knows no model and no widget."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from nexusquant.engine.stats import GenerationStats


class FinishReason(str, Enum):
    """Why an answer ended."""

    END = "end"
    """The model said it was done, or a stop text appeared."""
    LENGTH = "length"
    """`max_new_tokens` was reached."""
    CONTEXT = "context"
    """The model's context is full."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class LoadProgress:
    """A step of loading a model: what happens now and how far it is, in [0, 1]."""

    text: str
    fraction: float


@dataclass(frozen=True)
class BlockProgress:
    """Where in a long text, which is read block by block, and how much of all that is done.

    Args:
        number: The block at hand, from 1.
        num_blocks: Blocks of the text.
        share: Of the whole work, both readings of every block, in [0, 1].
    """

    number: int
    num_blocks: int
    share: float

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds left for the rest of it, if `elapsed_s` went by; None before any is done."""
        return elapsed_s * (1 - self.share) / self.share if self.share else None


@dataclass(frozen=True)
class PrefillProgress:
    """Tokens read so far of the text given to `prefill`, and seconds since it began."""

    num_done: int
    num_total: int
    elapsed_s: float
    block: BlockProgress | None = None
    """None where the text is one block."""


@dataclass(frozen=True)
class RereadProgress:
    """Tokens read again so far to see what matters, of those to read; seconds since that began.

    In a text of several blocks, seconds since the text began.
    """

    num_done: int
    num_total: int
    elapsed_s: float
    block: BlockProgress | None = None
    """None where the text is one block."""


@dataclass(frozen=True)
class TextDelta:
    """Text that can be shown now; may be empty while a character is incomplete."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The end of an answer, with what was measured on the way and the ids that were generated."""

    reason: FinishReason
    stats: GenerationStats
    new_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class SelfTestProgress:
    """The preset being measured now, and how many are done."""

    preset: str
    num_done: int
    num_total: int


Event = LoadProgress | PrefillProgress | RereadProgress | SelfTestProgress | TextDelta | Finished
