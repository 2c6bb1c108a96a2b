"""Reading again is only looking: what waits, in which order it is read, and what is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import EVICTING, OFF, SAFE, decode, read
from page_contents import assert_same_bytes, held_pages, kept_masks
from second_reading import (
    EARLY,
    RECONSTRUCTING,
    REREADING,
    chat,
    document,
    filled,
    reread,
    rereading,
)

import nexusquant
from nexusquant import CacheStateError, CompressedCache, ScorerName

NUM_TOKENS, NUM_SINKS, RECENT = 300, 4, 32

question = tiny_models.token_ids(9, seed=2)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


@pytest.mark.parametrize("config", [REREADING, EARLY], ids=["exact", "coded early"])
def test_reading_an_open_span_again_leaves_no_trace(model, config):
    plain, looked_at = filled(model, config), filled(model, config)
    reread(model, looked_at, document)
    assert looked_at.usage() == plain.usage()
    assert looked_at.num_seen_tokens == NUM_TOKENS
    assert torch.equal(read(model, looked_at, question), read(model, plain, question))


def test_reading_past_turns_again_leaves_no_trace(model):
    plain, looked_at = (CompressedCache(model, REREADING) for _ in range(2))
    ids = [chat(model, cache) for cache in (plain, looked_at)]
    reread(model, looked_at, ids[1])
    assert looked_at.usage() == plain.usage()
    assert torch.equal(read(model, looked_at, question), read(model, plain, question))
    assert torch.equal(decode(model, looked_at, question), decode(model, plain, question))


@pytest.mark.filterwarnings("ignore:The text was not read again")
def test_a_text_read_again_and_kept_whole_is_as_if_it_was_read_once(model):
    plain, looked_at = filled(model, rereading(1.0)), filled(model, rereading(1.0))
    reread(model, looked_at, document)
    for cache in (plain, looked_at):
        cache.finish_prefill()
    for one, other in zip(plain.layers, looked_at.layers, strict=True):
        for head, counterpart in zip(held_pages(one), held_pages(other), strict=True):
            assert_same_bytes(head, counterpart)
    assert torch.equal(decode(model, looked_at, question), decode(model, plain, question))


@pytest.mark.parametrize(
    "done, stretch",
    [
        ((), range(5, 75)),
        ((), range(0, 70)),
        ((), range(4, NUM_TOKENS)),
        ((range(4, 74),), range(75, 100)),
        ((range(4, 74),), range(60, 100)),
        ((range(4, 74), range(74, 100)), range(74, 100)),
        ((range(4, 268),), range(268, 270)),
    ],
)
@torch.no_grad()
def test_stretches_out_of_order_are_refused_and_nothing_is_lost(model, done, stretch):
    cache = filled(model)
    for earlier in done:
        with cache.rereading([earlier]):
            model(document[:, earlier.start : earlier.stop], past_key_values=cache)
    with (
        pytest.raises(CacheStateError, match="the next ones that wait begin at"),
        cache.rereading([stretch]),
    ):
        raise AssertionError("was let in")
    assert torch.equal(read(model, cache, question), read(model, filled(model), question))


@pytest.mark.parametrize("num_tokens, num_waiting", [(20, 0), (99, 0), (100, 64), (300, 264)])
def test_an_open_span_waits_between_sinks_and_window_if_it_is_long_enough(
    model, num_tokens, num_waiting
):
    cache = CompressedCache(model, REREADING)
    assert not cache.waiting_tokens()
    read(model, cache, document[:, :num_tokens])
    waiting = cache.waiting_tokens()
    assert len(waiting) == num_waiting
    assert not waiting or waiting == range(NUM_SINKS, num_tokens - RECENT)


@pytest.mark.parametrize("config", [OFF, SAFE], ids=["off", "safe"])
def test_nothing_waits_without_eviction(model, config):
    assert not filled(model, config).waiting_tokens()


def test_past_turns_wait_from_the_last_decision_or_the_last_live_mark_on(model):
    cache = CompressedCache(model, REREADING)
    ids = chat(model, cache)
    assert cache.waiting_tokens() == range(NUM_SINKS, 252 - RECENT)
    mark = cache.mark()
    assert not cache.waiting_tokens()
    ids = torch.cat([ids, chat(model, cache, num_turns=2)], dim=1)
    assert cache.waiting_tokens() == range(252, 378 - RECENT)
    del mark
    assert cache.waiting_tokens() == range(NUM_SINKS, 378 - RECENT)
    reread(model, cache, ids)
    cache.finish_prefill()
    assert not cache.waiting_tokens()
    chat(model, cache, num_turns=1)
    assert not cache.waiting_tokens()
    decode(model, cache, question)
    assert cache.waiting_tokens() == range(378 - RECENT, 450 - RECENT)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_was_not_read_again_to_the_end_is_chosen_by_the_stand_in_with_a_warning(model, count):
    eviction = replace(RECONSTRUCTING, scorer=ScorerName.SNAPKV)
    expected = nexusquant.prefill(model, document, replace(EVICTING, eviction=eviction))
    cache = filled(model)
    reread(model, cache, document, count=count)
    with pytest.warns(UserWarning, match="not read again, as reconstruction needs: snapkv chose"):
        cache.finish_prefill()
    assert same_choice(cache, expected)


def same_choice(one, other):
    pairs = zip(one.layers, other.layers, strict=True)
    return all(torch.equal(kept_masks(a), kept_masks(b)) for a, b in pairs)


def test_new_tokens_make_the_scores_of_an_open_span_void(model):
    plain, looked_at = filled(model), filled(model)
    reread(model, looked_at, document)
    for cache in (plain, looked_at):
        read(model, cache, question)
        with pytest.warns(UserWarning, match="not read again"):
            cache.finish_prefill()
    assert same_choice(plain, looked_at)


def test_new_tokens_make_the_scores_of_past_turns_void(model):
    cache = CompressedCache(model, REREADING)
    reread(model, cache, chat(model, cache))
    decode(model, cache, question)
    cache.finish_prefill()
    assert cache.usage().kept_share == 1
