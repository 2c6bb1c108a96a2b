"""What one block of a long text may keep, when each is decided on before the next one is read.

Knows counts and shares; no scores and no storage.
"""

from __future__ import annotations


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
    num_newest = round(newest_share * keep_ratio * (num_before + num_waiting + num_to_come))
    own_newest = min(max(num_newest - num_to_come, 0), num_waiting)
    of_others = (1 - newest_share) * keep_ratio / (1 - newest_share * keep_ratio)
    # never quite nothing: a share of nothing is not one
    num_kept = max(own_newest + of_others * (num_waiting - own_newest), 1e-6)
    return num_kept / num_waiting, own_newest / num_kept
