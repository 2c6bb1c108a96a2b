from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexusquant.cache.kept import KeptTokens
from nexusquant.errors import CacheStateError

CPU = torch.device("cpu")
NUM_HEADS = 3

counts = st.integers(0, 40)
masks = st.integers(0, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * NUM_HEADS)
)
runs = st.lists(st.one_of(counts, masks), max_size=8)


def as_mask(run):
    return torch.tensor(run, dtype=torch.bool).view(NUM_HEADS, -1)


def build(runs):
    """The value under test, and the same as plain lists of one bool a token."""
    kept, plain = KeptTokens(), [[] for _ in range(NUM_HEADS)]
    for run in runs:
        if isinstance(run, int):
            kept = kept.append(run)
            run = [[True] * run] * NUM_HEADS
        else:
            mask = as_mask(run)
            kept = kept.append(mask.shape[1], mask)
        plain = [held + new for held, new in zip(plain, run, strict=True)]
    return kept, plain


@settings(max_examples=60, deadline=None)
@given(runs)
def test_mask_is_what_was_appended_in_order(runs):
    kept, plain = build(runs)
    assert kept.num_tokens == len(plain[0])
    assert kept.mask(NUM_HEADS, CPU).tolist() == plain


@settings(max_examples=60, deadline=None)
@given(runs)
def test_neighbouring_runs_of_one_kind_are_one(runs):
    kept, _ = build(runs)
    kinds = [segment.bits is None for segment in kept.segments]
    assert all(one != other for one, other in pairwise(kinds))


@settings(max_examples=60, deadline=None)
@given(runs, counts, st.integers(1, 40))
def test_dropping_the_last_tokens_undoes_their_append(runs, num_left, num_dropped):
    kept, plain = build([*runs, num_left + num_dropped])
    shorter = kept.drop_last(num_dropped)
    expected = [head[: len(head) - num_dropped] for head in plain]
    assert shorter.mask(NUM_HEADS, CPU).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(runs, masks)
def test_appending_leaves_the_old_value_as_it_was(runs, more):
    kept, plain = build(runs)
    mask = as_mask(more)
    kept.append(mask.shape[1], mask)
    kept.append(5)
    assert kept.mask(NUM_HEADS, CPU).tolist() == plain


def test_tokens_that_were_chosen_among_cannot_be_dropped():
    mask = torch.tensor([[True, False]] * NUM_HEADS)
    with pytest.raises(CacheStateError, match="decided on already"):
        KeptTokens().append(2, mask).drop_last(1)


def test_more_tokens_than_the_last_run_has_cannot_be_dropped():
    mask = torch.tensor([[True, False]] * NUM_HEADS)
    with pytest.raises(CacheStateError, match="decided on already"):
        KeptTokens().append(2, mask).append(3).drop_last(4)


@pytest.mark.parametrize("num_tokens", [1, 8, 9, 64])
def test_a_token_takes_one_bit_and_only_where_some_are_gone(num_tokens):
    whole = torch.ones(NUM_HEADS, num_tokens, dtype=torch.bool)
    assert KeptTokens().append(num_tokens, whole).segments[0].bits is None
    some = whole.clone()
    some[1, 0] = False
    bits = KeptTokens().append(num_tokens, some).segments[0].bits
    assert bits.nbytes == NUM_HEADS * -(-num_tokens // 8)
