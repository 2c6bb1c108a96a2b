"""Rotation of keys by their positions: undone exactly, and the same as that of transformers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.cohere import modeling_cohere
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama

from nexusquant.lattice import Pairing, Rotary, RotarySegment

DIM = 32
BOTH = (Pairing.HALVES, Pairing.NEIGHBOURS)
both_pairings = pytest.mark.parametrize("pairing", BOTH, ids=str)


def frequencies(rotary_dim=DIM, base=10_000.0):
    return base ** -(torch.arange(0, rotary_dim, 2).float() / rotary_dim)


def rotary(rotary_dim=DIM, scaling=1.0):
    return Rotary([RotarySegment(0, frequencies(rotary_dim))], scaling)


def random_keys(num_tokens=40, num_heads=2, seed=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_heads, num_tokens, DIM, generator=generator)


@given(
    st.sampled_from(BOTH),
    st.sampled_from([2, 8, 16, DIM]),
    st.lists(st.integers(0, 200_000), min_size=1, max_size=20),
    st.floats(0.5, 2),
)
@settings(deadline=None)
def test_what_was_put_on_comes_off(pairing, rotary_dim, positions, scaling):
    turned, at = rotary(rotary_dim, scaling), torch.tensor(positions)
    keys = random_keys(len(positions))
    there = turned.put_on(keys, at, pairing)
    torch.testing.assert_close(turned.take_off(there, at, pairing), keys, atol=1e-5, rtol=1e-5)
    back = turned.take_off(keys, at, pairing)
    torch.testing.assert_close(turned.put_on(back, at, pairing), keys, atol=1e-5, rtol=1e-5)


@both_pairings
def test_the_sizes_of_pairs_are_kept_without_scaling(pairing):
    keys, at = random_keys(), torch.arange(40) * 997
    there = rotary().put_on(keys, at, pairing)
    assert not torch.allclose(there[:, 1:], keys[:, 1:], atol=0.1)
    torch.testing.assert_close(there.norm(dim=-1), keys.norm(dim=-1))
    scaled = rotary(scaling=1.25).put_on(keys, at, pairing)
    torch.testing.assert_close(scaled.norm(dim=-1), 1.25 * keys.norm(dim=-1))


@both_pairings
def test_products_depend_on_the_distance_alone(pairing):
    query, key = random_keys(1, 1, seed=1), random_keys(1, 1, seed=2)

    def product(one, other):
        turned = rotary()
        a = turned.put_on(query, torch.tensor([one]), pairing)
        return float((a * turned.put_on(key, torch.tensor([other]), pairing)).sum())

    assert product(30, 7) == pytest.approx(product(1023, 1000), abs=1e-3)
    assert product(30, 7) != pytest.approx(product(30, 8), abs=1e-3)


@both_pairings
def test_position_zero_and_coordinates_past_the_rotary_ones_stay(pairing):
    keys = random_keys()
    turned = rotary(rotary_dim=8)
    there = turned.put_on(keys, torch.arange(40), pairing)
    assert torch.equal(there[..., 8:], keys[..., 8:])
    assert torch.equal(there[:, 0], keys[:, 0])
    assert not torch.allclose(there[:, 1:, :8], keys[:, 1:, :8], atol=0.1)


def test_without_a_pairing_keys_come_as_they_are():
    keys, at = random_keys(), torch.arange(40)
    turned = rotary(scaling=3.0)
    assert torch.equal(turned.put_on(keys, at, Pairing.NONE), keys)
    assert torch.equal(turned.take_off(keys, at, Pairing.NONE), keys)


def test_a_pair_turns_by_its_frequency_times_the_position():
    turned = Rotary([RotarySegment(0, torch.tensor([0.5, 0.25]))])
    keys = torch.tensor([[[1.0, 0.0, 0.0, 2.0, 9.0]]])
    at = torch.tensor([3])
    cos, sin = torch.tensor([1.5, 0.75]).cos(), torch.tensor([1.5, 0.75]).sin()
    # halves: (1, 0) by 1.5 and (0, 2) by 0.75
    halves = torch.stack([cos[0], -2 * sin[1], sin[0], 2 * cos[1], torch.tensor(9.0)])
    torch.testing.assert_close(turned.put_on(keys, at, Pairing.HALVES)[0, 0], halves)
    # neighbours: (1, 0) by 1.5 and (0, 2) by 0.75
    neighbours = torch.stack([cos[0], sin[0], -2 * sin[1], 2 * cos[1], torch.tensor(9.0)])
    torch.testing.assert_close(turned.put_on(keys, at, Pairing.NEIGHBOURS)[0, 0], neighbours)


def rotated_by(module, keys, positions, rotary_dim, scaling):
    """Keys as this family's attention rotates them, from the same frequencies."""
    angles = positions[:, None].float() * frequencies(rotary_dim)
    # Cohere's embedding repeats each frequency, the others repeat the whole row
    angles = (
        angles.repeat_interleave(2, dim=-1)
        if module is modeling_cohere
        else torch.cat([angles, angles], dim=-1)
    )
    cos, sin = angles.cos()[None] * scaling, angles.sin()[None] * scaling
    return module.apply_rotary_pos_emb(keys[None], keys[None], cos, sin)[1][0]


@pytest.mark.parametrize(
    ("module", "pairing", "rotary_dim"),
    [
        (modeling_llama, Pairing.HALVES, DIM),
        (modeling_cohere, Pairing.NEIGHBOURS, DIM),
        (modeling_glm, Pairing.NEIGHBOURS, DIM),
        (modeling_glm, Pairing.NEIGHBOURS, DIM // 2),
    ],
    ids=["llama", "cohere", "glm", "half of glm"],
)
@pytest.mark.parametrize("scaling", [1.0, 1.37])
def test_keys_turn_as_in_transformers(module, pairing, rotary_dim, scaling):
    keys, at = random_keys(), torch.arange(11, 51)
    expected = rotated_by(module, keys, at, rotary_dim, scaling)
    turned = rotary(rotary_dim, scaling)
    torch.testing.assert_close(turned.put_on(keys, at, pairing), expected, atol=1e-5, rtol=1e-5)
    wrong = BOTH[pairing is BOTH[0]]
    assert not torch.allclose(turned.put_on(keys, at, wrong), expected, atol=0.1)


@both_pairings
def test_heads_may_have_positions_of_their_own(pairing):
    keys = random_keys()
    at = torch.stack([torch.arange(40), torch.arange(100, 180, 2)])
    both = rotary().put_on(keys, at, pairing)
    for head in range(2):
        alone = rotary().put_on(keys[head : head + 1], at[head], pairing)
        torch.testing.assert_close(both[head], alone[0])


@both_pairings
def test_before_and_after_a_change_tokens_turn_by_their_own_frequencies(pairing):
    old, new = frequencies(), frequencies(base=500_000.0)
    turned = Rotary([RotarySegment(0, old)], 1.2)
    turned.observe(20, new)
    keys, at = random_keys(), torch.arange(40)
    there = turned.put_on(keys, at, pairing)
    by_old = Rotary([RotarySegment(0, old)], 1.2).put_on(keys, at, pairing)
    by_new = Rotary([RotarySegment(0, new)], 1.2).put_on(keys, at, pairing)
    torch.testing.assert_close(there[:, :20], by_old[:, :20])
    torch.testing.assert_close(there[:, 20:], by_new[:, 20:])
    assert not torch.allclose(by_old[:, 20:], by_new[:, 20:], atol=0.1)
    torch.testing.assert_close(turned.take_off(there, at, pairing), keys, atol=1e-5, rtol=1e-5)
    # out of order, and of each head its own
    shuffled = torch.stack([at.flip(0), at])
    turned_back = turned.put_on(keys, shuffled, pairing)
    expected = turned.put_on(keys.flip(1), at, pairing)[0].flip(0)
    torch.testing.assert_close(turned_back[0], expected)
    torch.testing.assert_close(turned_back[1], there[1])


def starts(turned):
    return [segment.first for segment in turned.segments]


def test_the_same_tensor_changes_nothing():
    same = frequencies()
    turned = Rotary([RotarySegment(0, same)])
    before = turned.segments
    for first in (0, 5, 90):
        turned.observe(first, same)
    assert turned.segments is before


def test_changes_are_remembered_in_order():
    one, two, three = frequencies(), frequencies(base=2e4), frequencies(base=3e4)
    turned = Rotary([RotarySegment(0, one)])
    turned.observe(8, two)
    turned.observe(30, three)
    assert starts(turned) == [0, 8, 30]
    assert [s.frequencies for s in turned.segments] == [one, two, three]


def test_a_change_seen_again_after_going_back_replaces_what_came_later():
    one, two, three = frequencies(), frequencies(base=2e4), frequencies(base=3e4)
    turned = Rotary([RotarySegment(0, one)])
    turned.observe(8, two)
    turned.observe(30, three)
    # back to token 20 of the text, and another way on
    turned.observe(20, one)
    assert starts(turned) == [0, 8, 20]
    assert turned.segments[-1].frequencies is one
    # a new text: nothing of the old one is left
    turned.observe(0, two)
    assert starts(turned) == [0]
    assert turned.segments[0].frequencies is two


def test_equal_frequencies_from_a_file_become_the_models_own_tensor():
    own = frequencies()
    turned = Rotary([RotarySegment(0, frequencies(base=5.0)), RotarySegment(8, own.clone())])
    turned.recognise(own)
    assert turned.segments[1].frequencies is own
    assert starts(turned) == [0, 8]
    assert turned.segments[0].frequencies is not own
    turned.observe(20, own)
    assert starts(turned) == [0, 8]


@pytest.mark.parametrize("pairing", [*BOTH, Pairing.NONE], ids=str)
def test_runs_turn_as_their_positions_do_however_often_they_are_asked_for(pairing):
    turned = rotary(scaling=1.25)
    for first, count in [(0, 4), (36, 16), (52, 1), (0, 4), (70, 3), (90, 2), (36, 16), (5, 2000)]:
        keys = random_keys(count)
        expected = turned.put_on(keys, torch.arange(first, first + count), pairing)
        assert torch.equal(turned.put_on_run(keys, first, pairing), expected)


@both_pairings
def test_runs_turn_by_new_frequencies_once_these_are_in_force(pairing):
    turned, keys = rotary(), random_keys()
    before = turned.put_on_run(keys, 100, pairing)
    turned.observe(100, frequencies(base=500_000.0))
    after = turned.put_on_run(keys, 100, pairing)
    assert not torch.allclose(before, after, atol=0.1)
    assert torch.equal(after, turned.put_on(keys, torch.arange(100, 140), pairing))
