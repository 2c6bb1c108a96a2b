from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from cache_walker import reachable_bytes
from driving import EVICTING, EVICTION, SAFE, TWO_BIT, decode, read
from page_contents import assert_same_bytes, held_pages, kept_masks

import nexusquant
from nexusquant import CompressedCache, ScorerName

NUM_TOKENS, NUM_SINKS, RECENT = 700, 4, 32
NUM_CANDIDATES = NUM_TOKENS - NUM_SINKS - RECENT
NUM_HEADS_OF_ALL_LAYERS = 4

document = tiny_models.token_ids(NUM_TOKENS)


def evicting(keep_ratio, **options):
    return replace(EVICTING, eviction=replace(EVICTION, keep_ratio=keep_ratio, **options))


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def page_lengths(cache):
    pools = [layer.pages for layer in cache.layers if layer.pages is not None]
    return [length for pages in pools for length in pages.lengths]


@pytest.mark.parametrize("keep_ratio", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("scorer", list(ScorerName))
def test_exactly_the_budget_is_in_the_pages(model, keep_ratio, scorer):
    cache = nexusquant.prefill(model, document, evicting(keep_ratio, scorer=scorer))
    budget = round(keep_ratio * NUM_CANDIDATES * NUM_HEADS_OF_ALL_LAYERS)
    assert sum(page_lengths(cache)) == budget
    usage = cache.usage()
    assert usage.num_quantized_pairs == budget
    assert usage.num_stored_pairs == budget + NUM_HEADS_OF_ALL_LAYERS * (NUM_SINKS + RECENT)
    assert usage.num_seen_pairs == NUM_TOKENS * NUM_HEADS_OF_ALL_LAYERS


def test_bytes_fall_with_the_share_that_is_kept(model):
    sizes = [
        reachable_bytes(nexusquant.prefill(model, document, evicting(share)))
        for share in (1.0, 0.7, 0.4, 0.2, 0.05)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_keeping_everything_holds_what_no_eviction_holds(model):
    whole = nexusquant.prefill(model, document, TWO_BIT)
    kept = nexusquant.prefill(model, document, evicting(1.0))
    for one, other in zip(whole.layers, kept.layers, strict=True):
        for head, counterpart in zip(held_pages(one), held_pages(other), strict=True):
            assert_same_bytes(head, counterpart)


def test_positions_go_on_counting_evicted_tokens(model):
    cache = nexusquant.prefill(model, document, evicting(0.1))
    assert cache.num_seen_tokens == cache.get_seq_length() == NUM_TOKENS
    decode(model, cache, tiny_models.token_ids(3))
    assert cache.num_seen_tokens == NUM_TOKENS + 3


def test_heads_keep_different_numbers_unless_the_floor_says_otherwise(model):
    free = nexusquant.prefill(model, document, evicting(0.3, head_floor=0.0))
    assert len(set(page_lengths(free))) > 1
    equal = nexusquant.prefill(model, document, evicting(0.3, head_floor=1.0))
    assert max(page_lengths(equal)) - min(page_lengths(equal)) <= 1


def test_no_head_falls_below_its_floor(model):
    cache = nexusquant.prefill(model, document, evicting(0.2, head_floor=0.5))
    assert min(page_lengths(cache)) >= int(0.5 * 0.2 * NUM_CANDIDATES)


def test_sinks_and_the_recent_window_stay_as_the_model_made_them_in_16_bits(model):
    exact = CompressedCache(model, EVICTING)
    read(model, exact, document)
    made = [layer.recent for layer in exact.layers]
    exact.finish_prefill()
    for layer, (keys, values) in zip(exact.layers, made, strict=True):
        assert torch.equal(layer.sinks[1], values[:, :NUM_SINKS].half())
        assert torch.equal(layer.recent[1], values[:, -RECENT:].half())
        sinks = layer.codec.widen(*layer.sinks, first=0)[0]
        recent = layer.codec.widen(*layer.recent, first=layer.first_recent)[0]
        torch.testing.assert_close(sinks, keys[:, :NUM_SINKS], atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(recent, keys[:, -RECENT:], atol=2e-3, rtol=1e-3)


def test_kept_pages_are_the_codes_of_the_kept_tokens_in_order(model):
    whole = nexusquant.prefill(model, document, TWO_BIT)
    thinned = nexusquant.prefill(model, document, evicting(0.3))
    for one, other in zip(whole.layers, thinned.layers, strict=True):
        for parts, kept, mask in zip(
            held_pages(one), held_pages(other), kept_masks(other), strict=True
        ):
            assert_same_bytes([part[mask] for part in parts], kept)


def test_kept_shares_agree_with_the_pages(model):
    cache = nexusquant.prefill(model, document, evicting(0.3))
    border = NUM_TOKENS - RECENT
    ranges = [(0, NUM_SINKS), (NUM_SINKS, border), (border, NUM_TOKENS), (9, 9), (800, 900)]
    sinks, candidates, recent, nothing, past_the_end = cache.kept_shares(ranges)
    assert (sinks, recent, nothing, past_the_end) == (1, 1, 1, 1)
    expected = sum(page_lengths(cache)) / (NUM_CANDIDATES * NUM_HEADS_OF_ALL_LAYERS)
    assert candidates == pytest.approx(expected)
    one_by_one = cache.kept_shares([(index, index + 1) for index in range(NUM_TOKENS)])
    assert sum(one_by_one) * NUM_HEADS_OF_ALL_LAYERS == pytest.approx(
        cache.usage().num_stored_pairs
    )


def test_kept_shares_are_one_where_nothing_was_evicted(model):
    cache = nexusquant.prefill(model, document, SAFE)
    assert cache.kept_shares([(0, 700), (100, 101)]) == [1, 1]


@pytest.mark.parametrize(("num_tokens", "is_thinned"), [(64 + 36 - 1, False), (64 + 36, True)])
def test_a_span_below_min_span_is_kept_whole(model, num_tokens, is_thinned):
    cache = nexusquant.prefill(model, document[:, :num_tokens], evicting(0.5))
    assert (cache.usage().kept_share < 1) == is_thinned


def test_a_question_is_not_thinned_out_but_a_long_second_span_is(model):
    cache = nexusquant.prefill(model, document, evicting(0.25))
    first = cache.usage().num_stored_pairs
    read(model, cache, tiny_models.token_ids(50, seed=2))
    cache.finish_prefill()
    assert cache.usage().num_stored_pairs == first + 50 * NUM_HEADS_OF_ALL_LAYERS
    read(model, cache, tiny_models.token_ids(232, seed=3))
    cache.finish_prefill()
    # of the new span's 232 tokens, 32 are its recent window
    second = first + (50 + 32 + round(0.25 * 200)) * NUM_HEADS_OF_ALL_LAYERS
    assert cache.usage().num_stored_pairs == second


def test_pages_of_earlier_turns_are_never_coded_again(model):
    cache = nexusquant.prefill(model, document, evicting(0.3))
    before = [held_pages(layer) for layer in cache.layers]
    read(model, cache, tiny_models.token_ids(400, seed=2))
    decode(model, cache, tiny_models.token_ids(150, seed=3))
    read(model, cache, tiny_models.token_ids(300, seed=4))
    cache.finish_prefill()
    for layer, heads in zip(cache.layers, before, strict=True):
        for parts, old in zip(held_pages(layer), heads, strict=True):
            assert_same_bytes([part[: len(old[0])] for part in parts], old)


@pytest.mark.parametrize("num_tokens", [37, 40, 60, 300])
def test_a_window_of_queries_longer_than_the_span_is_cut_to_it(model, num_tokens):
    config = evicting(0.5, min_span=1, observation_window=512)
    cache = nexusquant.prefill(model, document[:, :num_tokens], config)
    assert sum(page_lengths(cache)) == round(0.5 * (num_tokens - 36) * NUM_HEADS_OF_ALL_LAYERS)


def test_everything_but_sinks_and_window_may_go(model):
    cache = nexusquant.prefill(model, document, evicting(0.0001))
    assert sum(page_lengths(cache)) == 0
    assert bool(decode(model, cache, tiny_models.token_ids(100)).isfinite().all())
    # what is generated is never evicted
    assert sum(page_lengths(cache)) == 64 * NUM_HEADS_OF_ALL_LAYERS


@pytest.mark.parametrize(("num_sinks", "recent"), [(0, 0), (0, 32), (100, 16), (4, 700)])
def test_sinks_and_window_may_have_any_size(model, num_sinks, recent):
    config = replace(evicting(0.5), num_sink_tokens=num_sinks, recent_window=recent)
    cache = nexusquant.prefill(model, document, config)
    num_candidates = max(0, NUM_TOKENS - num_sinks - recent)
    assert sum(page_lengths(cache)) == round(0.5 * num_candidates * NUM_HEADS_OF_ALL_LAYERS)
    assert bool(decode(model, cache, tiny_models.token_ids(70)).isfinite().all())
    assert cache.num_seen_tokens == NUM_TOKENS + 70


def test_sinks_fill_up_over_short_turns(model):
    config = replace(TWO_BIT, num_sink_tokens=20, recent_window=8)
    cache = CompressedCache(model, config)
    for seed in range(4):
        read(model, cache, tiny_models.token_ids(6, seed=seed))
        cache.finish_prefill()
    assert [layer.sinks[0].shape[1] for layer in cache.layers] == [16, 16]
    read(model, cache, tiny_models.token_ids(16, seed=9))
    cache.finish_prefill()
    assert [layer.sinks[0].shape[1] for layer in cache.layers] == [20, 20]
    assert page_lengths(cache) == [12, 12, 12, 12]
