"""Sharing bits out over groups and layers: the budget, and that no bit is better elsewhere."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.config import MOST_BITS
from nexusquant.lattice import (
    GAUSSIAN_ERROR,
    MOST_KEY_BITS,
    MOST_VALUE_BITS,
    share_bits,
    share_even_bits,
)

MOST = MOST_KEY_BITS

# every layer: heads and the variances of its groups, over ten orders of magnitude
a_variance = st.floats(-5, 5).map(lambda exponent: 10.0**exponent)
some_bits = st.floats(1, 4)


def layers_of(num_heads):
    """Up to five layers of up to six groups each; variances of a head need not fall."""
    row = st.integers(1, 6).flatmap(lambda n: st.lists(a_variance, min_size=n, max_size=n))
    layer = st.tuples(num_heads, row).map(
        lambda made: torch.tensor([made[1]] * made[0]).sort(dim=1, descending=True).values
    )
    return st.lists(layer, min_size=1, max_size=5)


any_layers = layers_of(st.integers(1, 4))
equal_layers = layers_of(st.just(2))


def spent(layers, widths):
    return sum(of.shape[0] * sum(w) for of, w in zip(layers, widths, strict=True))


def predicted_cost(layers, widths):
    return sum(
        float(cost) * GAUSSIAN_ERROR[width]
        for of, of_widths in zip(layers, widths, strict=True)
        for cost, width in zip(of.double().sum(dim=0), of_widths, strict=True)
    )


@given(any_layers, some_bits)
def test_bits_stay_in_the_budget_and_none_that_fits_is_left(layers, bits):
    widths = share_bits(layers, bits)
    left = bits * sum(of.numel() for of in layers) - spent(layers, widths)
    assert left >= 0
    could_take = [
        of.shape[0] for of, w in zip(layers, widths, strict=True) if any(x < MOST for x in w)
    ]
    assert all(left < size for size in could_take)


@given(any_layers, some_bits)
def test_widths_fall_from_a_stored_group_within_what_the_code_knows(layers, bits):
    for of, widths in zip(layers, share_bits(layers, bits), strict=True):
        assert len(widths) == of.shape[1]
        assert 1 <= widths[0] <= MOST
        assert all(later <= earlier for earlier, later in pairwise(widths))
        assert widths[-1] >= 0


@given(equal_layers, some_bits)
@settings(deadline=None)
def test_no_bit_would_save_more_in_another_group(layers, bits):
    widths = share_bits(layers, bits)
    least = predicted_cost(layers, widths)
    groups = [(index, g) for index, of in enumerate(widths) for g in range(len(of))]
    for source in groups:
        for target in groups:
            moved = [list(of) for of in widths]
            moved[source[0]][source[1]] -= 1
            moved[target[0]][target[1]] += 1
            # a layer's first group keeps one bit by rule, whatever it saves
            first_keeps = moved[source[0]][source[1]] >= (source[1] == 0)
            if source != target and first_keeps and moved[target[0]][target[1]] <= MOST:
                assert predicted_cost(layers, moved) >= least * (1 - 1e-9)


def test_the_layer_and_the_group_that_cost_more_get_more():
    flat = torch.ones(2, 8)
    few, many = share_bits([flat, 100 * flat], 2)
    assert sum(many) == 32 - sum(few)
    # a bit is worth about 10 dB / 6: 20 dB are between three and four bits
    assert sum(many) - sum(few) >= 2 * 8
    (widths,) = share_bits([torch.tensor([[1e4, 1e2, 1.0, 1e-2]])], 2)
    assert widths[0] > widths[1] > widths[2] >= widths[3]
    assert sum(widths) == 8


def test_alike_groups_get_alike_widths():
    for bits in (1, 2, 3, 4):
        assert share_bits([torch.ones(3, 8)] * 4, bits) == [(bits,) * 8] * 4


@given(some_bits)
def test_a_layer_of_more_heads_pays_for_each_of_them(bits):
    # a bit costs eight heads eight times as much and saves eight times as much
    alone, eight = share_bits([torch.ones(1, 4), torch.ones(8, 4)], bits)
    assert abs(sum(alone) - sum(eight)) <= 4 * 8


an_even_layer = st.tuples(st.integers(1, 4), st.integers(1, 6), a_variance).map(
    lambda made: torch.full((made[0], made[1]), made[2])
)


@given(st.lists(an_even_layer, min_size=1, max_size=5), some_bits)
def test_every_group_of_values_has_a_bit_and_all_together_stay_in_the_budget(layers, bits):
    widths = share_even_bits(layers, bits)
    assert spent(layers, widths) <= bits * sum(of.numel() for of in layers)
    for of, of_widths in zip(layers, widths, strict=True):
        assert len(of_widths) == of.shape[1]
        assert all(1 <= width <= MOST_VALUE_BITS for width in of_widths)
        assert all(later <= earlier for earlier, later in pairwise(of_widths))


def test_all_bits_that_a_config_allows_can_be_shared_out():
    assert MOST_BITS <= MOST_VALUE_BITS
    assert share_even_bits([torch.ones(2, 8)] * 3, MOST_BITS) == [(MOST_BITS,) * 8] * 3


def test_bits_that_no_value_may_have_go_to_others():
    dear, cheap = share_even_bits([torch.full((2, 8), cost) for cost in (1e9, 1e-9)], 3.5)
    assert dear == (MOST_VALUE_BITS,) * 8
    assert cheap == (3,) * 8


def test_values_that_cost_more_get_more_and_those_that_cost_nothing_their_share_of_the_mean():
    few, none, many = share_even_bits([torch.full((2, 8), cost) for cost in (1.0, 0.0, 50.0)], 2)
    assert sum(many) > sum(few) >= sum(none) >= 8
    assert share_even_bits([torch.zeros(2, 8)] * 2, 2) == [(2,) * 8] * 2
