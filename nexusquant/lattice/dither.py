"""A sign for every token, so that like vectors do not err alike. Knows positions, no codes."""

from __future__ import annotations

from torch import Tensor


def token_signs(positions: Tensor) -> Tensor:
    """What vectors are multiplied by before they are coded: 1 at even positions, -1 at odd ones.

    Attention averages over tokens whose vectors are alike, and a code errs alike on equal vectors:
    what they share would stay. A code is not symmetric about zero, so that two such vectors of
    opposite sign have errors that have little in common; it costs nothing to store.

    Args:
        positions: Token indices. Any shape, integer.

    Returns:
        1 or -1, float32, shaped like `positions`.

    Reference:
        The purpose of dither: Gray and Stockham, Dithered quantizers, IEEE Trans. Inform. Theory
        39(3), 1993. This one of two values: ours.
    """
    return 1.0 - 2.0 * (positions & 1)
