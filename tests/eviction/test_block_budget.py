"""Blocks of a long text share one budget: that of the text."""

from __future__ import annotations

import pytest

from nexusquant.eviction import ToCome, block_shares, kept_to_come

KEEP = (0.05, 0.38, 0.64, 1.0)
NEWEST = (0.0, 0.3, 1.0)


def shares_of(blocks, keep_ratio, newest_share):
    """Share to keep of every block, and of the newest tokens in that, block by block."""
    before = 0
    for block in blocks:
        to_come = sum(blocks) - before - block
        yield block_shares(keep_ratio, newest_share, before, block, to_come)
        before += block


@pytest.mark.parametrize("keep_ratio", KEEP)
@pytest.mark.parametrize("newest_share", NEWEST)
def test_one_block_has_the_budget_of_the_text(keep_ratio, newest_share):
    assert block_shares(keep_ratio, newest_share, 0, 1000, 0) == (keep_ratio, newest_share)


@pytest.mark.parametrize("keep_ratio", KEEP)
@pytest.mark.parametrize("newest_share", NEWEST)
@pytest.mark.parametrize(
    "blocks", [(1000, 1000), (300, 300, 300, 300), (64, 4000), (4000, 64), (1017,) * 300]
)
def test_blocks_together_keep_what_one_block_would(blocks, keep_ratio, newest_share):
    shares = list(shares_of(blocks, keep_ratio, newest_share))
    kept = [block * share for block, (share, _) in zip(blocks, shares, strict=True)]
    newest = [kept * share for kept, (_, share) in zip(kept, shares, strict=True)]
    assert sum(kept) == pytest.approx(keep_ratio * sum(blocks), abs=1)
    assert sum(newest) == pytest.approx(newest_share * keep_ratio * sum(blocks), abs=1)
    assert all(0 < share <= 1 for share, _ in shares)
    assert all(0 <= share <= 1 for _, share in shares)


def test_the_newest_of_the_text_are_in_its_last_blocks():
    shares = list(shares_of((1000, 1000, 1000), 0.5, 0.8))
    # 1,200 of 3,000 tokens: the last block as a whole, and a fifth of the one before it
    assert [round(kept * newest, 3) for kept, newest in shares] == [0, 0.2, 1]
    first, second, _ = (kept for kept, _ in shares)
    # all others are kept alike
    assert (second - 0.2) / 0.8 == pytest.approx(first)


@pytest.mark.parametrize("keep_ratio", KEEP)
@pytest.mark.parametrize("newest_share", NEWEST)
@pytest.mark.parametrize("blocks", [(1000, 500, 700), (64, 4000), (1024,) * 300])
def test_at_every_block_it_is_told_what_the_rest_will_keep(keep_ratio, newest_share, blocks):
    kept, num_read = 0.0, 0
    for block, (share, _) in zip(blocks, shares_of(blocks, keep_ratio, newest_share), strict=True):
        kept, num_read = kept + block * share, num_read + block
        told = kept_to_come(keep_ratio, newest_share, 0, num_read, sum(blocks) - num_read)
        rest = told.num_whole + told.per_kept * kept
        assert kept + rest == pytest.approx(keep_ratio * sum(blocks), abs=1.5)


def test_a_layer_adds_the_newest_in_every_head_and_others_by_what_it_has_kept():
    assert ToCome(num_whole=5, per_kept=2.0).vectors([10, 30]) == 2 * 5 + 2 * 40
