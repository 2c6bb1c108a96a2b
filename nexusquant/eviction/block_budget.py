"""What one block of a long text may keep, when each is decided on before the next one is read.

Knows counts and shares; no scores and no storage.
"""

from __future__ import annotations

ROOM_MARGIN = 33 / 32
"""Room for the blocks to come, beside what one layer would need that keeps the same of every block.

Layers share one budget: some keep a little more of later blocks than of the first.
"""


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
    shares, num_read = (keep_ratio, newest_share), num_before + num_waiting
    newest, kept = _counts(*shares, num_read, num_to_come)
    newest_before, kept_before = _counts(*shares, num_before, num_waiting + num_to_come)
    # never quite nothing: a share of nothing is not one
    num_kept = max(kept - kept_before, 1e-6)
    return num_kept / num_waiting, (newest - newest_before) / num_kept


def kept_to_come(
    keep_ratio: float, newest_share: float, num_read: int, num_to_come: int
) -> tuple[float, float]:
    """Of a text that blocks are read of: tokens that were kept, and those that will be.

    Args:
        keep_ratio: As for `block_shares`.
        newest_share: The same.
        num_read: Tokens of the text that were decided on.
        num_to_come: Tokens of the text after them.

    Returns:
        Both for one head, in the mean.
    """
    total = keep_ratio * (num_read + num_to_come)
    if newest_share * keep_ratio == 1:
        return num_read, num_to_come
    _, kept = _counts(keep_ratio, newest_share, num_read, num_to_come)
    return kept, total - kept


def _counts(
    keep_ratio: float, newest_share: float, num_read: int, num_to_come: int
) -> tuple[int, float]:
    """The text's newest tokens among those that were read, and all that these keep."""
    num_newest = round(newest_share * keep_ratio * (num_read + num_to_come))
    own_newest = min(max(num_newest - num_to_come, 0), num_read)
    of_others = (1 - newest_share) * keep_ratio / (1 - newest_share * keep_ratio)
    return own_newest, own_newest + of_others * (num_read - own_newest)
