"""What was read again is evicted: short turns together, once, and without a trace in what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from cache_walker import reachable_bytes
from driving import decode, read
from page_contents import assert_same_bytes, held_pages, kept_masks
from second_reading import EARLY, RECONSTRUCTING, REREADING, chat, reread, rereading

import nexusquant
from nexusquant import CompressedCache

NUM_HEADS_OF_ALL_LAYERS = 4
NUM_SINKS, RECENT = 4, 32

document = tiny_models.token_ids(300)
question = tiny_models.token_ids(9, seed=2)
answer = tiny_models.token_ids(75, seed=3)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def settle(model, cache, ids):
    """Read again and evict."""
    reread(model, cache, ids)
    cache.finish_prefill()


def turn(model, cache):
    """A question and an answer, as logits."""
    return torch.cat([read(model, cache, question), decode(model, cache, answer)])


def num_evicted(cache):
    usage = cache.usage()
    return usage.num_seen_pairs - usage.num_stored_pairs


def budget(keep_ratio, num_tokens):
    return round(keep_ratio * num_tokens * NUM_HEADS_OF_ALL_LAYERS)


def all_pages(cache):
    layers = [layer for layer in cache.layers if getattr(layer, "pages", None) is not None]
    return [part for layer in layers for head in held_pages(layer) for part in head]


def assert_same_pages(one, other):
    assert_same_bytes(all_pages(one), all_pages(other))


@pytest.mark.parametrize("config", [REREADING, EARLY], ids=["exact", "coded early"])
@pytest.mark.parametrize("keep_ratio", [0.05, 0.35, 0.9])
def test_an_open_span_keeps_exactly_its_budget(model, config, keep_ratio):
    config = replace(config, eviction=replace(RECONSTRUCTING, keep_ratio=keep_ratio))
    cache = CompressedCache(model, config)
    read(model, cache, document, chunk_size=60)
    settle(model, cache, document)
    assert cache.usage().num_quantized_pairs == budget(keep_ratio, 300 - NUM_SINKS - RECENT)
    assert cache.usage().stored_bytes == reachable_bytes(cache)


@pytest.mark.parametrize("keep_ratio", [0.05, 0.35, 0.9])
def test_past_turns_keep_exactly_their_budget_again_and_again(model, keep_ratio):
    cache = CompressedCache(model, rereading(keep_ratio))
    ids, expected = document[:, :0], 0
    for seed in range(20, 23):
        ids = torch.cat([ids, chat(model, cache, num_turns=2, seed=seed)], dim=1)
        waiting = len(cache.waiting_tokens())
        settle(model, cache, ids)
        expected += waiting * NUM_HEADS_OF_ALL_LAYERS - budget(keep_ratio, waiting)
        assert num_evicted(cache) == expected
        assert cache.usage().stored_bytes == reachable_bytes(cache)
    assert cache.usage().num_seen_tokens == ids.shape[1]


def test_of_past_turns_what_was_coded_stays_as_its_bytes_are(model):
    cache = CompressedCache(model, REREADING)
    ids = torch.cat([chat(model, cache), answer[:, :40]], dim=1)
    decode(model, cache, answer[:, :40])
    before = [held_pages(layer) for layer in cache.layers]
    settle(model, cache, ids)
    for layer, heads in zip(cache.layers, before, strict=True):
        masks = kept_masks(layer)
        assert not bool(masks.all(dim=1).any())
        for parts, old, mask in zip(held_pages(layer), heads, masks, strict=True):
            mask = mask[: len(old[0])]
            was_kept = [part[: int(mask.sum())] for part in parts]
            assert_same_bytes(was_kept, [part[mask] for part in old])


def test_pages_of_an_earlier_decision_are_never_touched(model):
    cache = CompressedCache(model, REREADING)
    ids = chat(model, cache)
    settle(model, cache, ids)
    before = [held_pages(layer) for layer in cache.layers]
    for seed in (5, 6):
        ids = torch.cat([ids, chat(model, cache, num_turns=2, seed=seed)], dim=1)
        settle(model, cache, ids)
    for layer, heads in zip(cache.layers, before, strict=True):
        for parts, old in zip(held_pages(layer), heads, strict=True):
            assert_same_bytes([part[: len(old[0])] for part in parts], old)


def test_the_newest_of_what_waited_are_kept_by_every_head(model):
    cache = CompressedCache(model, REREADING)
    settle(model, cache, chat(model, cache))
    # 216 tokens waited, of which 35 % are the budget and 20 % of that the newest
    assert cache.kept_shares([(220 - 15, 220)]) == [1.0]
    assert cache.kept_shares([(NUM_SINKS, 220 - 15)])[0] < 0.35


@pytest.mark.parametrize("num_before", [0, 300])
def test_rewinding_to_before_past_turns_restores_what_eviction_took(model, num_before):
    cache = CompressedCache(model, REREADING)
    if num_before:
        read(model, cache, document)
        settle(model, cache, document)
    mark = cache.mark()
    first = chat_and_settle(model, cache)
    pages = all_pages(cache)
    logits = turn(model, cache)
    cache.rewind(mark)
    assert cache.num_seen_tokens == num_before
    assert chat_and_settle(model, cache) == first
    assert_same_bytes(all_pages(cache), pages)
    assert torch.equal(turn(model, cache), logits)


def chat_and_settle(model, cache):
    """Evict among four turns that follow `document`, or nothing; the counts afterwards."""
    before = document[:, : cache.num_seen_tokens]
    settle(model, cache, torch.cat([before, chat(model, cache)], dim=1))
    usage = cache.usage()
    assert usage.kept_share < 1
    return usage.num_stored_pairs, usage.num_seen_tokens


def test_a_mark_of_what_was_evicted_comes_back_bit_for_bit(model):
    cache = CompressedCache(model, REREADING)
    settle(model, cache, chat(model, cache))
    mark = cache.mark()
    first = turn(model, cache)
    chat(model, cache, num_turns=1)
    cache.rewind(mark)
    assert torch.equal(turn(model, cache), first)


def test_a_saved_chat_goes_on_as_the_one_it_was_saved_from(model, tmp_path):
    cache = CompressedCache(model, REREADING)
    settle(model, cache, chat(model, cache))
    cache.save(tmp_path / "chat.nxq")
    loaded = nexusquant.load_cache(tmp_path / "chat.nxq", model)
    assert not loaded.waiting_tokens()
    assert_same_pages(loaded, cache)
    assert torch.equal(turn(model, loaded), turn(model, cache))
    before = loaded.usage().num_stored_pairs
    # of what came after the file, more than min_span tokens wait
    ids = torch.cat([tiny_models.token_ids(252 + 84), chat(model, loaded, num_turns=1)], dim=1)
    waiting = loaded.waiting_tokens()
    assert waiting.start >= 252
    settle(model, loaded, ids)
    gone = len(waiting) * NUM_HEADS_OF_ALL_LAYERS - budget(0.35, len(waiting))
    assert loaded.usage().num_stored_pairs == before + 63 * NUM_HEADS_OF_ALL_LAYERS - gone


def test_saving_what_was_read_again_evicts_it_first(model, tmp_path):
    cache = CompressedCache(model, REREADING)
    reread(model, cache, chat(model, cache))
    cache.save(tmp_path / "chat.nxq")
    assert num_evicted(cache) == 216 * NUM_HEADS_OF_ALL_LAYERS - budget(0.35, 216)


def test_what_a_mark_protected_during_the_second_reading_stays(model):
    cache = CompressedCache(model, REREADING)
    cache.pin(range(280, 290))
    ids = chat(model, cache)
    mark = cache.mark()
    ids = torch.cat([ids, chat(model, cache, num_turns=2)], dim=1)
    reread(model, cache, ids)
    del mark
    cache.finish_prefill()
    assert cache.kept_shares([(0, 252), (280, 290)]) == [1.0, 1.0]
    assert cache.kept_shares([(252, 346)])[0] < 0.5


def test_sliding_layers_are_not_touched_by_the_second_reading(model):
    hybrid = tiny_models.gemma3()
    plain, cache = (CompressedCache(hybrid, REREADING) for _ in range(2))
    read(hybrid, plain, document)
    read(hybrid, cache, document)
    reread(hybrid, cache, document)
    for name in ("keys", "values", "cumulative_length"):
        one, other = (getattr(held.layers[0], name) for held in (plain, cache))
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    cache.finish_prefill()
    assert cache.usage().num_quantized_pairs == round(0.35 * 264 * 2)
    mark = cache.mark()
    first = turn(hybrid, cache)
    cache.rewind(mark)
    assert torch.equal(turn(hybrid, cache), first)


def test_two_caches_read_again_in_turns_do_not_see_each_other(model):
    other_document = tiny_models.token_ids(280, seed=9)
    alone = CompressedCache(model, REREADING)
    read(model, alone, document)
    settle(model, alone, document)
    one, other = (CompressedCache(model, REREADING) for _ in range(2))
    read(model, one, document)
    read(model, other, other_document)
    reread(model, one, document)
    settle(model, other, other_document)
    decode(model, other, answer)
    one.finish_prefill()
    assert_same_pages(one, alone)
    assert torch.equal(turn(model, one), turn(model, alone))
