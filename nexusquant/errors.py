"""The errors a caller may want to catch. Knows nothing else of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexusquant.config import RopeScaling


class NexusquantError(Exception):
    """Base of every error that Nexusquant raises on purpose."""


class UnsupportedModelError(NexusquantError):
    """The model cannot work with a compressed cache; the message names the reason."""


class ContextLengthError(NexusquantError, ValueError):
    """A text is longer than the model's context; nothing was cut off.

    Args:
        message: What was asked for and what can be done.
        num_tokens: Tokens that the text needs.
        context_length: Tokens that there is room for.
        offers: Scalings that would make room, best first; none is used unless asked for.
    """

    def __init__(
        self,
        message: str,
        *,
        num_tokens: int,
        context_length: int,
        offers: tuple[RopeScaling, ...] = (),
    ) -> None:
        super().__init__(message)
        self.num_tokens, self.context_length, self.offers = num_tokens, context_length, offers


class CacheStateError(NexusquantError):
    """A cache was used out of order, or a saved cache does not belong to this model."""


class DocumentError(NexusquantError):
    """A document could not be read; the message says why and what can be done."""


class OutOfMemoryError(NexusquantError):
    """The device had no room left; the job was dropped and its memory freed."""


class TooManyJobsError(NexusquantError):
    """One person asked for too much at once; what they asked for before goes on."""
