"""Memory is planned from a config alone, and held to what models and caches really take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import tiny_variants
import torch
from live_bytes import LiveBytes
from transformers import LlamaConfig, LlamaForCausalLM

import nexusquant
from nexusquant import PRESETS, CompressedCache, UnsupportedModelError
from nexusquant.cache import kernel_table_bytes
from nexusquant.config import PAGE_SIZE
from nexusquant.engine import (
    MemoryPlan,
    Precision,
    PrefillProgress,
    RereadProgress,
    as_table,
    count_weights,
    plan_memory,
    read_chunks,
    refusal,
)
from nexusquant.engine.memory import DRIVER_BYTES, WORKSPACE_BYTES
from nexusquant.engine.prefill import prefill_chunks

FAMILIES = {**tiny_models.FULL_ATTENTION, **tiny_models.HYBRID, **tiny_variants.VARIANTS}
NUM_TOKENS = 3000

LLAMA_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
GIB = 2**30


@pytest.fixture(scope="module")
def weights_8b():
    return count_weights(LLAMA_8B)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_without_being_there(family):
    model = FAMILIES[family]()
    parameters = list(model.parameters())
    count = count_weights(model.config)
    assert count.num_parameters == sum(parameter.numel() for parameter in parameters)
    assert count.num_bytes(Precision.FLOAT32) == sum(parameter.nbytes for parameter in parameters)


def test_narrow_weights_take_what_their_quantizers_make_of_them(weights_8b):
    # linear layers: 32 x (4096 x (4096 + 1024 + 1024 + 4096) + 3 x 4096 x 14336)
    assert weights_8b.num_linear == 6_979_321_856
    assert weights_8b.num_parameters == 8_030_261_248
    others = 2 * (8_030_261_248 - 6_979_321_856)
    assert weights_8b.num_bytes(Precision.BFLOAT16) == 2 * 8_030_261_248
    assert weights_8b.num_bytes(Precision.INT8) == 6_979_321_856 + 4 * 1_376_256 + others
    bits = 8 * (weights_8b.num_bytes(Precision.NF4) - others) / 6_979_321_856
    assert bits == pytest.approx(4 + 8 / 64 + 32 / (64 * 256))


def test_what_cannot_be_served_is_refused_with_the_reason():
    for name in ("latent_attention", "no_attention"):
        make, reason = tiny_models.UNSUPPORTED[name]
        with pytest.raises(UnsupportedModelError, match=reason):
            plan_memory(make().config, PRESETS["safe"])


@pytest.fixture(scope="module")
def model():
    """Wide enough that keys and values, not the smallest tensors, are what counts."""
    sizes = {"hidden_size": 128, "head_dim": 64, "num_hidden_layers": 8, "vocab_size": 1000}
    return tiny_models.of_family(LlamaForCausalLM, LlamaConfig, **sizes)


@pytest.fixture(scope="module")
def profile(model):
    found = nexusquant.build_profile(model, token_ids=tiny_models.token_ids(300))
    # tables of the code, which are made once for a process
    cache = nexusquant.prefill(model, tiny_models.token_ids(200), PRESETS["safe"], profile=found)
    with torch.no_grad():
        model(tiny_models.token_ids(1), past_key_values=cache)
    return found


def measured_peaks(model, profile, config, num_tokens=NUM_TOKENS):
    """Bytes alive at most in chunks that are read, and while text is read again and coded."""
    ids = tiny_models.token_ids(num_tokens)
    peaks = {PrefillProgress: 0, RereadProgress: 0}
    with LiveBytes([*model.parameters(), *model.buffers(), ids]) as live:
        cache = CompressedCache(model, config, profile)
        before = PrefillProgress
        for event in read_chunks(model, ids, cache):
            # a block is decided on and coded on the way from its last chunk to the next block
            coding = before is not PrefillProgress or type(event) is not PrefillProgress
            kind = RereadProgress if coding else PrefillProgress
            peaks[kind] = max(peaks[kind], live.peak)
            before, live.peak = type(event), live.now
        return peaks[PrefillProgress], max(peaks[RereadProgress], live.peak)


@pytest.mark.parametrize("exact_prefill_tokens", [32_768, 1024])
@pytest.mark.parametrize("preset", ["off", "safe", "high"])
def test_the_peak_of_a_text_is_near_what_was_planned(model, profile, preset, exact_prefill_tokens):
    config = replace(PRESETS[preset], exact_prefill_tokens=exact_prefill_tokens)
    plan = plan_memory(model.config, config, Precision.FLOAT32, on_gpu=False)
    reading, coding = measured_peaks(model, profile, config)
    assert 0.97 < plan.reading_bytes(NUM_TOKENS) / reading < 1.06
    peak = max(plan.reading_bytes(NUM_TOKENS), plan.coding_bytes(NUM_TOKENS))
    assert 0.97 < peak / max(reading, coding) < 1.06


def test_the_exact_vectors_of_a_text_have_their_memory_from_the_first_chunk_on(model, profile):
    ids = tiny_models.token_ids(NUM_TOKENS)
    held = []
    with LiveBytes([*model.parameters(), *model.buffers(), ids]) as live:
        cache = CompressedCache(model, PRESETS["safe"], profile)
        for _ in prefill_chunks(model, ids, cache):
            held.append(live.now)
    exact = sum(one.nbytes for layer in cache.layers for one in layer.recent)
    assert exact == 2 * 8 * 2 * 64 * 4 * NUM_TOKENS
    assert held[0] > exact
    assert max(held) - held[0] < 0.01 * exact


@pytest.mark.parametrize("preset", ["safe", "balanced"])
def test_the_peak_of_a_text_in_blocks_grows_by_what_is_stored(model, profile, preset):
    config = replace(PRESETS[preset], exact_prefill_tokens=1024)
    plan = plan_memory(model.config, config, Precision.FLOAT32, on_gpu=False)
    # as many tokens a block
    short, long = (max(measured_peaks(model, profile, config, n)) for n in (4000, 8000))
    stored = plan.stored_bytes(8000) - plan.stored_bytes(4000)
    assert long - short < 1.3 * stored


def plan_8b(preset, weights, precision=Precision.NF4, **changes):
    config = replace(PRESETS[preset], **changes)
    return plan_memory(LLAMA_8B, config, precision, weights=weights)


@pytest.mark.parametrize("preset", ["off", "safe", "balanced"])
@pytest.mark.parametrize("gigabytes", [8, 12, 16])
def test_the_tokens_that_fit_fit_and_more_do_not(preset, gigabytes, weights_8b):
    plan = plan_8b(preset, weights_8b)
    free = gigabytes * GIB
    fitting = plan.tokens_that_fit(free)
    assert fitting > 10_000
    needed = plan.in_smallest_sizes().needed_bytes
    shorter = [fitting * part // 500 for part in range(1, 501)]
    assert max(map(needed, shorter)) <= 1.001 * free
    assert all(plan.sizes_that_fit(length, free) for length in shorter[::50])
    # what is exact at the end of a text comes and goes with its length
    longer = [fitting + step for step in range(1, 17_000, 100)]
    assert max(map(needed, longer)) > free


def test_nothing_fits_where_the_weights_do_not(weights_8b):
    plan = plan_8b("safe", weights_8b, Precision.BFLOAT16)
    assert plan.tokens_that_fit(12 * GIB) == 0
    assert plan.tokens_that_fit(24 * GIB) > 100_000


def test_the_tokens_that_fit_are_counted_in_the_shortest_blocks(weights_8b):
    for preset in ("safe", "balanced"):
        plan = plan_8b(preset, weights_8b)
        fitting = plan.tokens_that_fit(7 * GIB)
        assert fitting == plan.in_smallest_sizes().tokens_that_fit(7 * GIB)
        assert plan.needed_bytes(fitting) > 7 * GIB


def test_eviction_makes_room_for_a_longer_text_while_it_is_read(weights_8b):
    fitting = [plan_8b(p, weights_8b).tokens_that_fit(8 * GIB) for p in ("off", "safe", "balanced")]
    assert fitting[1] > 5 * fitting[0]
    assert fitting[2] > 2 * fitting[1]


def test_a_text_that_takes_blocks_anyway_takes_none_above_a_bound(weights_8b):
    plan = plan_8b("safe", weights_8b)
    # 128 KB a token
    assert plan.block_span(32_768) == 32_768
    assert plan.block_span(32_769) == 8192
    assert plan.reading_bytes(32_769) < plan.reading_bytes(32_768)


def test_the_longest_exact_span_that_leaves_room_is_found(weights_8b):
    plan, free = plan_8b("safe", weights_8b), 9 * GIB
    assert plan.sizes_that_fit(8_000, free) == (32_768, 2048)
    span, chunk = plan.sizes_that_fit(40_960, 7 * GIB)
    assert 1024 <= span < 32_768
    assert plan.with_sizes(span, chunk).needed_bytes(40_960) <= 7 * GIB
    assert plan.with_sizes(2 * span, 512).needed_bytes(40_960) > 7 * GIB
    assert plan.sizes_that_fit(4_000_000, free) is None


def test_chunks_are_large_where_that_costs_no_exact_token(weights_8b):
    plan = plan_8b("safe", weights_8b)
    small, large = (plan.with_sizes(8192, size).needed_bytes(40_960) for size in (512, 2048))
    assert large - small > 50 * 2**20
    assert plan.sizes_that_fit(40_960, large) == (8192, 2048)
    assert plan.sizes_that_fit(40_960, large - 1) == (8192, 512)
    assert plan.sizes_that_fit(40_960, small) == (8192, 512)
    assert plan.sizes_that_fit(40_960, small - 1).exact_span == 4096
    on_cpu = plan_memory(LLAMA_8B, plan.compression, on_gpu=False, weights=weights_8b)
    assert on_cpu.sizes_that_fit(40_960, 10**12).chunk_size == 512


def test_the_cache_of_a_long_text_shrinks_by_what_the_preset_promises(weights_8b):
    for preset, factor in (("safe", 7.5), ("high", 11.5), ("balanced", 19), ("max", 40)):
        plan = plan_8b(preset, weights_8b)
        assert plan.compression_factor(32_768) == pytest.approx(factor, rel=0.1)
        assert plan.bytes_per_token == pytest.approx(2 * 32 * 8 * 128 * 2 / factor, rel=0.2)


def test_the_terms_add_up_and_are_printed(weights_8b):
    plan = plan_8b("balanced", weights_8b)
    assert isinstance(plan, MemoryPlan)
    for num_tokens in (500, 8192, 65_536):
        terms = plan.terms(num_tokens)
        assert sum(num_bytes for _, num_bytes in terms) == plan.needed_bytes(num_tokens)
        assert all(num_bytes > 0 for _, num_bytes in terms)
    text = as_table(plan, 8192)
    assert "Weights in nf4" in text
    assert text.splitlines()[-1].startswith("Sum")


# `max_memory_allocated` on an H100 (benchmarks/results/memory.json): preset, tokens, span, bytes
SEEN_ON_AN_H100 = [
    ("balanced", 65_536, 2048, 6_732_014_080),
    ("balanced", 65_536, 8192, 7_377_419_264),
    ("balanced", 131_072, 8192, 7_780_449_280),
    ("high", 40_960, 2048, 6_743_762_944),
    ("high", 40_960, 8192, 7_329_057_280),
]


@pytest.mark.parametrize(("preset", "num_tokens", "span", "seen"), SEEN_ON_AN_H100)
def test_the_plan_of_a_real_shape_is_near_what_a_gpu_took(
    preset, num_tokens, span, seen, weights_8b
):
    plan = plan_8b(preset, weights_8b).with_sizes(span, 512)
    tensors = plan.weight_bytes + WORKSPACE_BYTES + plan.cache_peak_bytes(num_tokens)
    assert tensors == pytest.approx(seen, rel=0.03)


def test_kernels_read_pages_without_decoding_a_block_of_them(weights_8b):
    plan = plan_8b("balanced", weights_8b)
    without = replace(plan, chunk=replace(plan.chunk, has_kernels=False))
    tables = kernel_table_bytes(plan.size)
    assert tables == 32 * 8 * (64 * 8 * 32 + 64 * 16 + 128 * 4)
    assert plan.answering_bytes(65_536) < without.answering_bytes(65_536) + tables - 60 * 2**20
    assert plan.reading_bytes(65_536) < without.reading_bytes(65_536)
    # a prompt of one block meets no page before it is answered about
    first = plan.with_sizes(1024, 512)
    held = first.size.while_reading(*first._end(500)).total
    assert first.reading_bytes(500) == held + first.chunk.forward_bytes(0, 500, 500)


@pytest.mark.parametrize(
    ("changes", "precision", "on_gpu"),
    [
        ({}, Precision.NF4, False),
        ({}, Precision.FLOAT32, True),
        ({"head_dim": 256}, Precision.NF4, True),
        ({"attn_logit_softcapping": 50.0}, Precision.NF4, True),
    ],
)
def test_what_kernels_do_not_read_is_planned_without_them(changes, precision, on_gpu, weights_8b):
    config = LlamaConfig(**LLAMA_8B.to_dict() | changes)
    plan = plan_memory(config, PRESETS["safe"], precision, on_gpu=on_gpu, weights=weights_8b)
    assert not plan.chunk.has_kernels
    assert plan_8b("safe", weights_8b).chunk.has_kernels


def test_room_is_left_for_what_the_allocator_keeps_on_a_gpu(weights_8b):
    for preset in ("off", "safe", "balanced"):
        plan = plan_8b(preset, weights_8b)
        on_cpu = plan_memory(LLAMA_8B, plan.compression, on_gpu=False, weights=weights_8b)
        assert on_cpu.idle_bytes(65_536) == 0
        assert plan.idle_bytes(65_536) > 0
        tensors = plan.context_bytes + plan.weight_bytes + plan.cache_peak_bytes(65_536)
        assert plan.needed_bytes(65_536) == tensors + plan.idle_bytes(65_536)
    # where blocks of 2048 tokens died, shorter ones are read; under 8 GiB long ones still are
    plan, outside = plan_8b("balanced", weights_8b), DRIVER_BYTES
    assert plan.sizes_that_fit(65_536, 6_887_598_080 + outside).exact_span == 1024
    assert plan.sizes_that_fit(65_536, 8 * GIB + outside).exact_span == 8192
    high = plan_8b("high", weights_8b)
    assert high.sizes_that_fit(40_960, 8 * GIB + outside).exact_span == 8192


def test_a_page_more_than_fits_is_refused_with_the_numbers(weights_8b):
    plan, free = plan_8b("balanced", weights_8b), 8 * GIB
    fitting = plan.tokens_that_fit(free)
    assert refusal(plan, fitting, free) is None
    text = refusal(plan, fitting + PAGE_SIZE, free)
    assert f"{fitting + PAGE_SIZE:,} tokens do not fit" in text
    left = free - plan.weight_bytes - plan.context_bytes
    assert f"{left / 1e9:.2f} GB can be had, which is enough for {fitting:,}" in text
    smallest = plan.in_smallest_sizes()
    needed = smallest.needed_bytes(fitting + PAGE_SIZE) - plan.weight_bytes - plan.context_bytes
    assert f"they take {needed / 1e9:.2f} GB while they are read" in text


def test_no_text_needs_no_cache(weights_8b):
    plan = plan_8b("safe", weights_8b)
    assert plan.stored_bytes(0) == plan.reading_bytes(0) == plan.coding_bytes(0) == 0
