"""From scores to what is kept: one budget for all layers and heads. Knows no scorer, no storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# steps from the span of all scores to one score of float32, and a few more
_HALVINGS = 60


def select_kept(
    scores: Sequence[Tensor],
    keep_ratio: float,
    head_floor: float,
    newest_share: float = 0.0,
    pair_bytes: Sequence[float] | None = None,
) -> list[Tensor]:
    """Choose the key-value pairs that survive; exactly round(keep_ratio * pairs) of them.

    Where layers differ in bytes, it is that share of the bytes, or up to one pair less.

    Every head is first sure of its newest `newest_share` of its equal part of the budget, then of
    its own best `head_floor` of what is left of that part (fewer if rounding up would overdraw
    the budget). The rest of the budget goes to the best pairs that remain, over all layers and
    heads. Among equal scores the earlier layer, then the lower head, then the lower token wins.

    Args:
        scores: One tensor per layer, higher = keep, comparable between heads and layers.
            [H_kv, T] each, all of the same shape and device, floating, finite.
        keep_ratio: Share of all pairs to keep, in (0, 1].
        head_floor: Share of its equal part of the budget that a head is sure of, in [0, 1].
        newest_share: Share of its equal part that a head spends on the newest tokens, in [0, 1].
        pair_bytes: Stored bytes of a pair, of each layer; None: all alike.

    Returns:
        True where a pair is kept, one tensor per layer. [H_kv, T] each, bool.

    Raises:
        ValueError: A share outside its range, unequal shapes, or scores that are not finite.
    """
    _check(scores, {"head_floor": head_floor, "newest_share": newest_share}, keep_ratio)
    if not scores:
        return []
    stacked = torch.stack(list(scores)).float()
    num_layers, num_kv_heads, num_tokens = stacked.shape
    by_head = stacked.view(num_layers * num_kv_heads, num_tokens)
    budget = round(keep_ratio * by_head.numel())
    if budget == 0:
        return list(torch.zeros_like(stacked, dtype=torch.bool))
    _raise_sure_pairs(by_head, keep_ratio, head_floor, newest_share, budget)
    if pair_bytes is None or len(set(pair_bytes)) == 1:
        return list(_best_in_row(by_head.view(1, -1), budget).view_as(stacked))
    sizes = by_head.new_tensor(pair_bytes, dtype=torch.float64).repeat_interleave(num_kv_heads)
    most = keep_ratio * num_tokens * float(sizes.sum())
    return list(_best_for_bytes(by_head, sizes, most).view_as(stacked))


def _raise_sure_pairs(
    by_head: Tensor, keep_ratio: float, head_floor: float, newest_share: float, budget: int
) -> None:
    """Let what every head is sure of outrank all other pairs; scores [R, N] are finite."""
    num_heads, num_tokens = by_head.shape
    equal_part = budget // num_heads
    newest = min(round(newest_share * keep_ratio * num_tokens), equal_part)
    by_head[:, num_tokens - newest :] = float("inf")
    floor = min(round(head_floor * (keep_ratio * num_tokens - newest)), equal_part - newest)
    if floor > 0:
        by_head.masked_fill_(_best_in_row(by_head, newest + floor), float("inf"))


def _best_for_bytes(scores: Tensor, sizes: Tensor, most: float) -> Tensor:
    """Mark the largest scores [R, N] that take `most` bytes, at `sizes` [R] each; bool, [R, N]."""

    def taken(least: float) -> float:
        return float(((scores > least).sum(dim=1) * sizes).sum())

    known = scores[scores.isfinite()]
    if not known.numel() or taken(-torch.inf) <= most:
        return scores > -torch.inf
    # pairs above `high` fit, those above `low` do not; scores in between are as good as equal
    low, high = float(known.min()) - 1, float(known.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if taken(middle) <= most else (middle, high)
    is_above = scores > high
    is_between = (scores > low) & ~is_above
    cost = (is_between * sizes.float().unsqueeze(1)).flatten().cumsum(dim=0).view_as(scores)
    return is_above | is_between & (cost <= most - taken(high))


def per_byte(scores: Sequence[Tensor], pair_bytes: Sequence[float]) -> list[Tensor]:
    """Scores over what a pair takes: where pairs have more bits, fewer can be kept for the bytes.

    Args:
        scores: One tensor per layer, at least 0. [H_kv, T] each.
        pair_bytes: Stored bytes of a pair, of each layer.
    """
    return [of_layer / size for of_layer, size in zip(scores, pair_bytes, strict=True)]


def _best_in_row(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` largest of each row, the leftmost among equals. [R, N], bool."""
    # kthvalue counts from the smallest
    threshold = scores.kthvalue(scores.shape[1] - count + 1, dim=1, keepdim=True).values
    is_above = scores > threshold
    is_tied = scores == threshold
    num_missing = count - is_above.sum(dim=1, keepdim=True)
    is_first_tied = is_tied & (is_tied.cumsum(dim=1, dtype=torch.int32) <= num_missing)
    return is_above | is_first_tied


def _check(scores: Sequence[Tensor], shares: Mapping[str, float], keep_ratio: float) -> None:
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio is {keep_ratio!r}; it is a share in (0, 1].")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share!r}; it is a share in [0, 1].")
    shapes = sorted({tuple(layer.shape) for layer in scores})
    if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"scores have the shapes {shapes}; every layer needs the same [H_kv, T].")
    if not all(bool(layer.isfinite().all()) for layer in scores):
        raise ValueError("scores hold NaN or infinite values, which cannot be ranked.")
