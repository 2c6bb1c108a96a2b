"""How bits are shared out over groups of eight coordinates, in all layers of a model.

Knows what a group's whole error costs and what is left of it by bits. Must not know where costs
come from. Costs of all layers are in one unit, so that bits compete over layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from nexusquant.lattice.box_code import GAUSSIAN_ERROR

MOST_KEY_BITS = 7
"""Widest group of keys: in a byte, kernels hold a coordinate in half steps."""

MOST_VALUE_BITS = 4
"""Widest group of values: kernels sum up two words of a group, and more bits save next to nothing
that the rest of a model would notice."""

EVEN_COST_FLOOR = 0.6
"""Share of the mean cost that every layer's values are given: other texts are to come, and what is
near costs more evenly than what is looked up far away."""


def share_bits(costs: Sequence[Tensor], bits: float) -> list[tuple[int, ...]]:
    """Share bits out over the groups of keys; the heads of a layer get the same widths.

    Greedy: the next bit goes where it saves most cost. A layer's first group has one always, and
    none has more than `MOST_KEY_BITS`.

    Args:
        costs: What it costs to leave a group out, `KeyBasis.variances` of each layer.
            [H_kv, D / 8].
        bits: Mean bits per value over all layers.

    Returns:
        Widths of each layer's groups, falling.
    """
    least = [(1, *(0,) * (of_layer.shape[-1] - 1)) for of_layer in costs]
    return _share(costs, bits, least, _KEY_ERROR)


_KEY_ERROR = {width: error for width, error in GAUSSIAN_ERROR.items() if width <= MOST_KEY_BITS}


def share_even_bits(costs: Sequence[Tensor], bits: float) -> list[tuple[int, ...]]:
    """Share bits out over groups that are alike within a layer, as rotated values are.

    Every group has one bit at least: what is left out altogether is an error that is the same for
    every token, and sums over tokens do not take it away. None has more than `MOST_VALUE_BITS`.

    Args:
        costs: What it costs to leave a group of a head's values out, of each layer; the same for
            every group. [H_kv, D / 8].
        bits: Mean bits per value over all layers; 1 at least.

    Returns:
        Widths of each layer's groups, falling.
    """
    mean = sum(float(each.mean()) for each in costs) / max(1, len(costs))
    # where nothing costs anything, all are alike
    floor = EVEN_COST_FLOOR * mean or 1.0
    least = [(1,) * of_layer.shape[-1] for of_layer in costs]
    return _share([each + floor for each in costs], bits, least, _UNBIASED_ERROR)


# a code that is scaled up so that it shrinks nothing has more error: e / (1 - e)
_UNBIASED_ERROR = {
    width: error / (1 - error)
    for width, error in GAUSSIAN_ERROR.items()
    if 0 < width <= MOST_VALUE_BITS
}


def even_widths(bits: float, num_groups: int) -> tuple[int, ...]:
    """Widths of one vector's groups for a mean of `bits`, as alike as they can be, falling."""
    least, num_larger = divmod(round(bits * num_groups), num_groups)
    return (least + 1,) * num_larger + (least,) * (num_groups - num_larger)


def _share(
    costs: Sequence[Tensor],
    bits: float,
    least: Sequence[tuple[int, ...]],
    errors: Mapping[int, float],
) -> list[tuple[int, ...]]:
    of_groups = [of_layer.double().sum(dim=0).cummin(dim=0).values for of_layer in costs]
    widths = [list(of_layer) for of_layer in least]
    sizes = [of_layer.shape[0] for of_layer in costs]
    total = sum(of_layer.numel() for of_layer in costs)
    budget = bits * total - sum(map(lambda size, of: size * sum(of), sizes, least))
    offers = sorted(
        (-float(cost) * (errors[width] - errors[width + 1]) / size, layer, group, width)
        for layer, (of_layer, size) in enumerate(zip(of_groups, sizes, strict=True))
        for group, cost in enumerate(of_layer)
        for width in range(least[layer][group], max(errors))
    )
    for _, layer, group, _ in offers:
        if budget >= sizes[layer]:
            widths[layer][group] += 1
            budget -= sizes[layer]
    return [tuple(of_layer) for of_layer in widths]
