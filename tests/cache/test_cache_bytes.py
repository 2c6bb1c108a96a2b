from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from cache_walker import reachable_bytes
from driving import EVICTING, EVICTION, OFF, SAFE, TWO_BIT, decode, read

import nexusquant
from nexusquant import CompressedCache

STATES_OF = {
    "off": (tiny_models.llama, OFF),
    "safe": (tiny_models.llama, SAFE),
    "evicting": (tiny_models.llama, EVICTING),
    "evicting, bfloat16": (lambda: tiny_models.llama(dtype=torch.bfloat16), EVICTING),
    "off, sliding": (tiny_models.gemma3, OFF),
    "evicting, sliding": (tiny_models.gemma3, EVICTING),
    "odd head_dim": (lambda: tiny_models.llama(head_dim=20), EVICTING),
}


def assert_measured(cache):
    usage = cache.usage()
    assert usage.stored_bytes == reachable_bytes(cache)
    assert sum(size for _, size in usage.bytes_by_part) == usage.stored_bytes


def part(cache, name):
    return dict(cache.usage().bytes_by_part).get(name, 0)


@pytest.mark.parametrize("case", STATES_OF)
def test_stored_bytes_are_those_of_every_reachable_tensor_in_every_state(case):
    make, config = STATES_OF[case]
    model = make()
    cache = CompressedCache(model, config)
    assert_measured(cache)
    read(model, cache, tiny_models.token_ids(150), chunk_size=50)
    assert_measured(cache)
    cache.finish_prefill()
    assert_measured(cache)
    early = cache.mark()
    assert_measured(cache)
    decode(model, cache, tiny_models.token_ids(70))
    assert_measured(cache)
    late = cache.mark()
    read(model, cache, tiny_models.token_ids(200, seed=2))
    assert_measured(cache)
    cache.finish_prefill()
    assert_measured(cache)
    for mark in (late, early, early):
        cache.rewind(mark)
        assert_measured(cache)
    del early, late, mark
    assert_measured(cache)
    cache.reset()
    assert_measured(cache)


def test_marks_cost_bytes_until_they_are_dropped():
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, tiny_models.token_ids(200), SAFE)
    before = cache.usage().stored_bytes
    mark = cache.mark()
    # nothing has changed since: the mark shares all it holds
    assert cache.usage().stored_bytes == before
    decode(model, cache, tiny_models.token_ids(5))
    assert part(cache, "marks") > 0
    del mark
    assert part(cache, "marks") == 0
    assert_measured(cache)


def test_the_open_span_is_counted_at_full_precision():
    model = tiny_models.llama()
    cache = CompressedCache(model, SAFE)
    read(model, cache, tiny_models.token_ids(1000))
    assert part(cache, "exact") == 2 * cache.usage().uncompressed_bytes
    cache.finish_prefill()
    assert cache.usage().compression_factor > 3


def test_an_empty_cache_has_a_factor_of_one_and_no_pairs():
    usage = CompressedCache(tiny_models.llama(), OFF).usage()
    assert (usage.stored_bytes, usage.num_seen_tokens, usage.num_stored_pairs) == (0, 0, 0)
    assert usage.compression_factor == 1
    assert usage.kept_share == 1


def test_uncompressed_bytes_are_those_of_a_16_bit_dynamic_cache():
    model = tiny_models.llama(dtype=torch.bfloat16)
    ids = tiny_models.token_ids(300)
    with torch.no_grad():
        reference = model(ids, use_cache=True).past_key_values
    cache = nexusquant.prefill(model, ids, EVICTING)
    assert cache.usage().uncompressed_bytes == reachable_bytes(reference)


def test_uncompressed_bytes_of_a_hybrid_model_count_the_windows_as_they_are():
    model = tiny_models.gemma3().to(torch.bfloat16)
    cache = nexusquant.prefill(model, tiny_models.token_ids(300), SAFE)
    num_values = 2 * (300 + tiny_models.SLIDING_WINDOW - 1) * 2 * 16
    assert cache.usage().uncompressed_bytes == 2 * num_values


def keeping(share):
    return replace(EVICTING, eviction=replace(EVICTION, keep_ratio=share))


@pytest.mark.parametrize(
    ("config", "least"), [(SAFE, 5.5), (keeping(0.6), 10), (keeping(0.3), 17), (keeping(0.12), 30)]
)
def test_4096_tokens_of_smollm2s_shape_shrink_by(config, least):
    model = tiny_models.smollm_shaped()
    cache = nexusquant.prefill(model, tiny_models.token_ids(4096), config)
    usage = cache.usage()
    assert usage.uncompressed_bytes == 2 * 2 * 3 * 64 * 4096 * 2
    assert reachable_bytes(cache) <= usage.uncompressed_bytes / least


def test_bits_per_value_are_the_codes_the_scales_and_the_slack():
    cache = nexusquant.prefill(
        tiny_models.llama(head_dim=64), tiny_models.token_ids(36 + 640), TWO_BIT
    )
    # 640 vectors fill ten pages; 8 bits of scale for 64 values
    assert cache.usage().bits_per_value == pytest.approx(2 + 8 / 64)
    cache = nexusquant.prefill(
        tiny_models.llama(head_dim=64), tiny_models.token_ids(36 + 641), TWO_BIT
    )
    assert cache.usage().bits_per_value == pytest.approx((2 + 8 / 64) * 704 / 641)
