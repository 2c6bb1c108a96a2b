"""What one block of a long text may keep, when each is decided on before the next one is read.

Knows counts and shares; no scores and no storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ToCome(NamedTuple):
    """What a text will keep of tokens that are still to be read.

    Args:
        num_whole: Tokens of which every head keeps its pair: the newest of the text.
        per_kept: Pairs of the others, for each one that a layer has kept so far.
    """

    num_whole: int
    per_kept: float

    def vectors(self, lengths: Sequence[int]) -> int:
        """Vectors that a layer will add whose heads hold `lengths`."""
        return self.num_whole * len(lengths) + round(self.per_kept * sum(lengths))


def block_shares(
    keep_ratio: float, newest_share: float, num_before: int, num_waiting: int, num_to_come: int
) -> tuple[float, float]:
    """The budget of a block, as `select_kept` takes it, so that all blocks keep what one would.

    The newest tokens that every head keeps are those of the whole text. They cost the budget of the
    blocks that they are in, and leave the same share of all other tokens in every block.

    Args:
        keep_ratio: Share of the whole text's pairs, or of their bytes, to keep, in (0, 1].
        newest_share: Share of that budget for the newest tokens of the text, in [0, 1].
        num_before: Tokens of the text in earlier blocks.
        num_waiting: Tokens of this block, 1 or more.
        num_to_come: Tokens of the text after it.

    Returns:
        Share of the block's pairs to keep, and the newest ones' share of that.
    """
    if num_before == num_to_come == 0 or newest_share * keep_ratio == 1:
        return keep_ratio, newest_share
    num_newest, of_others = _rule(keep_ratio, newest_share, num_before + num_waiting + num_to_come)
    own_newest = min(max(num_newest - num_to_come, 0), num_waiting)
    # never quite nothing: a share of nothing is not one
    num_kept = max(own_newest + of_others * (num_waiting - own_newest), 1e-6)
    return num_kept / num_waiting, own_newest / num_kept


def kept_to_come(
    keep_ratio: float, newest_share: float, num_older: int, num_read: int, num_to_come: int
) -> ToCome:
    """What the rest of a text will keep, once blocks of it were decided on.

    Args:
        keep_ratio: As for `block_shares`.
        newest_share: The same.
        num_older: Tokens of other texts before this one, which were thinned out alike.
        num_read: Tokens of the text that were decided on.
        num_to_come: Tokens of the text after them.
    """
    if newest_share * keep_ratio == 1:
        return ToCome(num_to_come, 0.0)
    num_newest, of_others = _rule(keep_ratio, newest_share, num_read + num_to_come)
    num_whole = min(num_newest, num_to_come)
    newest_read = num_newest - num_whole
    num_kept = newest_read + of_others * (num_read - newest_read) + keep_ratio * num_older
    return ToCome(num_whole, of_others * (num_to_come - num_whole) / max(1.0, num_kept))


def _rule(keep_ratio: float, newest_share: float, num_tokens: int) -> tuple[int, float]:
    """A text's newest tokens, which are kept whole, and the share that is kept of all others."""
    num_newest = round(newest_share * keep_ratio * num_tokens)
    return num_newest, (1 - newest_share) * keep_ratio / (1 - newest_share * keep_ratio)
