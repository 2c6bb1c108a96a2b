"""A span in blocks: each is decided on and coded before more of the text comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from cache_walker import reachable_bytes
from driving import EVICTING, TWO_BIT, decode, read
from page_contents import assert_same_bytes, held_pages
from second_reading import REREADING, reread
from tolerances import error

from nexusquant import CompressedCache, QuantConfig

NUM_SINKS, RECENT, NUM_HEADS_OF_ALL_LAYERS = 4, 32, 4
BLOCK, NUM_BLOCKS = 200, 3
document = tiny_models.token_ids(BLOCK * NUM_BLOCKS)
answer = tiny_models.token_ids(40, seed=2)
CONFIGS = {"all kept": TWO_BIT, "one reading": EVICTING, "two readings": REREADING}


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def read_block(model, cache, number):
    """Read one block, and again if its config wants that; its span stays open."""
    end = BLOCK * (number + 1)
    read(model, cache, document[:, end - BLOCK : end], chunk_size=50)
    if cache.config.reads_twice(BLOCK):
        reread(model, cache, document[:, :end])


def in_blocks(model, config, num_blocks=NUM_BLOCKS):
    """The document, or its first blocks, read and decided on block by block."""
    cache = CompressedCache(model, config)
    for number in range(num_blocks):
        read_block(model, cache, number)
        cache.finish_prefill(num_to_come=BLOCK * (NUM_BLOCKS - 1 - number))
    return cache


def at_once(model, config):
    cache = CompressedCache(model, config)
    read(model, cache, document, chunk_size=50)
    if config.reads_twice(BLOCK):
        reread(model, cache, document)
    cache.finish_prefill()
    return cache


@pytest.mark.parametrize("config", CONFIGS)
def test_blocks_keep_as_many_pairs_as_the_whole(model, config):
    blocks, whole = in_blocks(model, CONFIGS[config]), at_once(model, CONFIGS[config])
    one, other = blocks.usage(), whole.usage()
    # the budget of every block is a whole number
    assert one.num_stored_pairs == pytest.approx(other.num_stored_pairs, abs=NUM_BLOCKS)
    assert one.num_seen_tokens == other.num_seen_tokens == BLOCK * NUM_BLOCKS
    assert one.stored_bytes == reachable_bytes(blocks)


@pytest.mark.parametrize("config", CONFIGS)
def test_between_blocks_only_the_recent_window_is_exact(model, config):
    cache = in_blocks(model, CONFIGS[config], num_blocks=2)
    for layer in cache.layers:
        assert layer.num_recent == RECENT
        assert layer.first_recent == 2 * BLOCK - RECENT
        # at full precision: what comes next is of the same span
        assert layer.recent[0].dtype == torch.float32


def test_the_next_block_decides_on_the_recent_window_of_the_one_before(model):
    cache = in_blocks(model, REREADING, num_blocks=1)
    assert not cache.waiting_tokens()
    read(model, cache, document[:, BLOCK : 2 * BLOCK])
    assert cache.waiting_tokens() == range(BLOCK - RECENT, 2 * BLOCK - RECENT)


def test_codes_of_earlier_blocks_are_never_touched(model):
    cache = in_blocks(model, REREADING, num_blocks=1)
    before = [held_pages(layer) for layer in cache.layers]
    for number in (1, 2):
        read_block(model, cache, number)
        cache.finish_prefill(num_to_come=BLOCK * (NUM_BLOCKS - 1 - number))
    for layer, heads in zip(cache.layers, before, strict=True):
        for parts, old in zip(held_pages(layer), heads, strict=True):
            assert_same_bytes([part[: len(old[0])] for part in parts], old)


def test_every_head_keeps_the_newest_of_the_text_and_not_of_each_block(model):
    cache = in_blocks(model, REREADING)
    num_waiting = BLOCK * NUM_BLOCKS - NUM_SINKS - RECENT
    num_newest = round(0.2 * 0.35 * num_waiting)
    end = BLOCK * NUM_BLOCKS - RECENT
    assert cache.kept_shares([(end - num_newest, end)]) == [1.0]
    first_end = BLOCK - RECENT
    assert cache.kept_shares([(first_end - num_newest, first_end)])[0] < 1.0


@pytest.mark.parametrize("config", CONFIGS)
def test_after_the_first_block_pages_have_room_for_the_whole_text(model, config):
    config = CONFIGS[config]
    if config.eviction is not None:
        # the newest tokens take a large part of the budget: later blocks keep far more
        config = replace(config, eviction=replace(config.eviction, newest_share=0.8))
    cache = in_blocks(model, config, num_blocks=1)
    rooms = [layer.pages.keys.scales.shape[0] for layer in cache.layers]
    needed = [layer.pages.keys.scales.shape[0] for layer in in_blocks(model, config).layers]
    assert sum(needed) <= sum(rooms) <= 1.5 * sum(needed)


@pytest.mark.parametrize("config", CONFIGS)
def test_after_a_rewind_from_a_longer_text_blocks_are_read_as_ever(model, config):
    cache = CompressedCache(model, CONFIGS[config])
    read(model, cache, document[:, :40], chunk_size=40)
    mark = cache.mark()
    read(model, cache, tiny_models.token_ids(3000, seed=3))
    cache.finish_prefill()
    cache.rewind(mark)
    for number in range(NUM_BLOCKS):
        read_block(model, cache, number)
        cache.finish_prefill(num_to_come=BLOCK * (NUM_BLOCKS - 1 - number))
    assert cache.num_seen_tokens == 40 + NUM_BLOCKS * BLOCK
    assert cache.usage().stored_bytes == reachable_bytes(cache)


def test_pinned_tokens_of_any_block_stay(model):
    cache = CompressedCache(model, REREADING)
    cache.pin(range(150, 260))
    for number in range(NUM_BLOCKS):
        read_block(model, cache, number)
        cache.finish_prefill(num_to_come=BLOCK * (NUM_BLOCKS - 1 - number))
    assert cache.kept_shares([(150, 260)]) == [1.0]
    assert cache.kept_shares([(NUM_SINKS, 150)])[0] < 0.6


@pytest.mark.parametrize("config", CONFIGS)
def test_results_are_close_to_those_of_one_block(model, config):
    config = replace(CONFIGS[config], quant=QuantConfig(key_bits=4, value_bits=4))
    if config.eviction is not None:
        config = replace(config, eviction=replace(config.eviction, keep_ratio=0.9))
    whole = decode(model, at_once(model, config), answer)
    assert error(decode(model, in_blocks(model, config), answer), whole) < 0.25 * whole.std()


@pytest.mark.parametrize("family", tiny_models.HYBRID)
def test_sliding_windows_go_on_from_block_to_block(family):
    model = tiny_models.HYBRID[family]()
    config = replace(TWO_BIT, quant=QuantConfig(key_bits=4, value_bits=4))
    whole = decode(model, at_once(model, config), answer)
    cache = in_blocks(model, config)
    assert len({layer.get_seq_length() for layer in cache.layers}) == 1
    assert error(decode(model, cache, answer), whole) < 0.25 * whole.std()


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_a_text_that_ends_early_goes_on_as_it_is(model, num_blocks):
    cache = in_blocks(model, REREADING, num_blocks)
    read(model, cache, document[:, num_blocks * BLOCK :][:, :150])
    # the next token closes the span; what was not read again is decided on by another rule
    with pytest.warns(UserWarning, match="snapkv"):
        assert bool(decode(model, cache, answer).isfinite().all())
    assert cache.usage().kept_share < 0.6
    assert cache.num_seen_tokens == num_blocks * BLOCK + 150 + 40


@pytest.mark.filterwarnings("ignore:The text was not read again")
@pytest.mark.parametrize("config", CONFIGS)
def test_rewinding_crosses_blocks_exactly(model, config):
    cache = CompressedCache(model, CONFIGS[config])
    read(model, cache, tiny_models.token_ids(90, seed=5))
    mark = cache.mark()
    first = decode(model, cache, answer)
    for _ in range(2):
        cache.rewind(mark)
        read(model, cache, document[:, :BLOCK], chunk_size=50)
        cache.finish_prefill(num_to_come=BLOCK)
        read(model, cache, document[:, BLOCK : BLOCK + 70])
        cache.rewind(mark)
        assert torch.equal(decode(model, cache, answer), first)


def test_a_text_after_one_in_blocks_has_its_own_budget(model):
    cache = in_blocks(model, EVICTING)
    before = cache.usage().num_stored_pairs
    read(model, cache, tiny_models.token_ids(300, seed=7))
    cache.finish_prefill()
    # what stood in the recent window stays; as many tokens take its place
    waiting = 300 - RECENT
    kept = round(0.35 * waiting * NUM_HEADS_OF_ALL_LAYERS)
    assert cache.usage().num_stored_pairs - before == kept + RECENT * NUM_HEADS_OF_ALL_LAYERS
