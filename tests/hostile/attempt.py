"""One hostile input and how it ended. Knows no reader, no server and no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Attempt:
    """A generated input together with the call that must survive it.

    Args:
        name: What was done, with all that is needed to make the input again.
        run: Feeds the input to the product and returns how that ended: "right" (a correct
            result) or "refused" (one clear sentence). It raises AssertionError on anything else.
    """

    name: str
    run: Callable[[], str]
