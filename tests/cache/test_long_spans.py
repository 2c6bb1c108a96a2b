from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from cache_walker import reachable_bytes
from driving import EVICTING, TWO_BIT, decode, read
from page_contents import assert_same_bytes, held_pages, kept_masks
from tolerances import error

from nexusquant import CompressedCache, QuantConfig

FINE = QuantConfig(key_bits=4, value_bits=4)
CONFIGS = {"all kept": replace(TWO_BIT, quant=FINE), "evicting": replace(EVICTING, quant=FINE)}

document = tiny_models.token_ids(700)


@pytest.fixture(scope="module")
def model():
    return tiny_models.llama()


def filled(model, config, *, early, before=0, chunk_size=90):
    """A cache of the document, after `before` other tokens, coded early or all at its end."""
    config = replace(config, exact_prefill_tokens=100) if early else config
    cache = CompressedCache(model, config)
    if before:
        read(model, cache, tiny_models.token_ids(before, seed=9))
        cache.finish_prefill()
    read(model, cache, document, chunk_size)
    return cache


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("before", [0, 20, 300])
@pytest.mark.parametrize("chunk_size", [90, 350])
def test_a_span_coded_early_keeps_as_many_pairs(model, config, before, chunk_size):
    options = {"before": before, "chunk_size": chunk_size}
    exact = filled(model, CONFIGS[config], early=False, **options)
    early = filled(model, CONFIGS[config], early=True, **options)
    exact.finish_prefill()
    early.finish_prefill()
    assert early.usage().num_stored_pairs == exact.usage().num_stored_pairs
    assert early.usage().num_quantized_pairs == exact.usage().num_quantized_pairs
    assert early.num_seen_tokens == exact.num_seen_tokens


@pytest.mark.parametrize("config", CONFIGS)
def test_results_are_close_to_those_of_the_exact_way(model, config):
    answer = tiny_models.token_ids(40, seed=2)
    exact = decode(model, filled(model, CONFIGS[config], early=False), answer)
    early = decode(model, filled(model, CONFIGS[config], early=True), answer)
    # early codes reach the hidden states of the rest of the span
    assert error(early, exact) < 0.15 * exact.std()


@pytest.mark.parametrize("config", CONFIGS)
def test_an_open_span_holds_no_more_than_its_limit_exactly(model, config):
    cache = filled(model, CONFIGS[config], early=True)
    for layer in cache.layers:
        assert layer.num_recent <= 100
        assert min(layer.pages.lengths) >= 700 - 100 - 4
    assert reachable_bytes(cache) < reachable_bytes(filled(model, CONFIGS[config], early=False)) / 3


def test_evicting_among_early_codes_codes_nothing_again(model):
    cache = filled(model, CONFIGS["evicting"], early=True)
    before = [held_pages(layer) for layer in cache.layers]
    cache.finish_prefill()
    for layer, heads in zip(cache.layers, before, strict=True):
        for parts, old, mask in zip(held_pages(layer), heads, kept_masks(layer), strict=True):
            survivors = [part[mask[: len(part)]] for part in old]
            assert_same_bytes([part[: len(survivors[0])] for part in parts], survivors)


def test_pages_of_evicted_early_codes_are_given_back(model):
    cache = filled(model, CONFIGS["evicting"], early=True)
    cache.finish_prefill()
    for layer in cache.layers:
        needed = sum(-(-length // 64) for length in layer.pages.lengths)
        # a page a head of slack: the end of the span is appended after the pages were given back
        assert needed <= layer.pages.keys.scales.shape[0] <= needed + 2


def test_rewind_crosses_a_span_that_was_coded_early(model):
    config = replace(CONFIGS["evicting"], exact_prefill_tokens=100)
    cache = CompressedCache(model, config)
    read(model, cache, tiny_models.token_ids(300, seed=9), 90)
    mark = cache.mark()
    first = decode(model, cache, tiny_models.token_ids(40, seed=2))
    cache.rewind(mark)
    read(model, cache, document, 90)
    decode(model, cache, tiny_models.token_ids(5))
    cache.rewind(mark)
    assert torch.equal(decode(model, cache, tiny_models.token_ids(40, seed=2)), first)
    # and in the middle of such a span
    cache.rewind(mark)
    read(model, cache, document, 90)
    cache.rewind(mark)
    assert torch.equal(decode(model, cache, tiny_models.token_ids(40, seed=2)), first)
