"""What a cache will hold is told from its model's config, and held to what it really holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import tiny_variants
import torch
from driving import OFF, read

import nexusquant
from nexusquant import PRESETS, CompressedCache, UnsupportedModelError
from nexusquant.cache import LayerShape, StoredSize, layer_shapes

FAMILIES = {
    **{name: tiny_models.FULL_ATTENTION[name] for name in ("llama", "qwen2", "phi3")},
    **tiny_models.HYBRID,
    "head_dim 80": tiny_models.FULL_ATTENTION["head_dim_80"],
    "head_dim 20": lambda: tiny_models.llama(head_dim=20),
    "head_dims of their own": tiny_models.gemma4,
    "smollm": tiny_models.smollm_shaped,
    "experts": tiny_variants.VARIANTS["qwen3 experts"],
    "bfloat16": lambda: tiny_models.llama(dtype=torch.bfloat16),
    "gpt2": tiny_variants.VARIANTS["gpt2"],
}
NO_EVICTION = ("off", "safe")


def size_of(model, config):
    return StoredSize(layer_shapes(model.config), config, model.dtype.itemsize)


def measured(model, config, num_tokens):
    return nexusquant.prefill(model, tiny_models.token_ids(num_tokens), config).usage()


def parts_of(usage):
    names = ("codes", "exact", "tables", "sliding-window layers")
    return tuple(dict(usage.bytes_by_part).get(name, 0) for name in names)


@pytest.mark.parametrize("num_tokens", [100, 200, 700])
@pytest.mark.parametrize("preset", NO_EVICTION)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_is_exact_where_nothing_is_evicted(family, preset, num_tokens):
    model = FAMILIES[family]()
    predicted = size_of(model, PRESETS[preset]).after(num_tokens)
    usage = measured(model, PRESETS[preset], num_tokens)
    codes, exact, tables, sliding = parts_of(usage)
    assert (predicted.codes, predicted.exact, predicted.sliding) == (codes, exact, sliding)
    # part of a head may be turned, of which the config does not tell in one way
    assert predicted.tables == pytest.approx(tables, abs=model.config.hidden_size)
    assert predicted.total == pytest.approx(usage.stored_bytes, rel=0.01)


@pytest.mark.parametrize("num_tokens", [1200, 2900])
@pytest.mark.parametrize("preset", ["high", "balanced", "max"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "smollm", "head_dim 80"])
def test_evicted_caches_are_predicted_within_a_few_percent(family, preset, num_tokens):
    model = FAMILIES[family]()
    predicted = size_of(model, PRESETS[preset]).after(num_tokens).total
    limit = 0.05 if num_tokens < 2000 else 0.03
    assert predicted == pytest.approx(
        measured(model, PRESETS[preset], num_tokens).stored_bytes, rel=limit
    )


def test_a_span_longer_than_what_stays_exact_is_predicted_too():
    config = replace(PRESETS["balanced"], exact_prefill_tokens=500)
    model = tiny_models.llama()
    predicted = size_of(model, config).after(2500).total
    assert predicted == pytest.approx(measured(model, config, 2500).stored_bytes, rel=0.03)


@pytest.mark.filterwarnings("ignore:The text was not read again")
@pytest.mark.parametrize("preset", ["off", "safe", "high", "balanced"])
@pytest.mark.parametrize("family", ["llama", "bfloat16", "gemma2", "head_dim 20"])
def test_an_open_span_is_predicted_by_its_coded_and_its_exact_tokens(family, preset):
    config = PRESETS[preset]
    model = FAMILIES[family]()
    profile = nexusquant.build_profile(model, token_ids=tiny_models.token_ids(256))
    cache = CompressedCache(model, config, profile)
    read(model, cache, tiny_models.token_ids(900), chunk_size=150)
    cache.finish_prefill(num_to_come=450)
    read(model, cache, tiny_models.token_ids(450), chunk_size=150)
    layer = cache.layers[-1]
    num_coded = layer.first_recent
    predicted = size_of(model, config).while_reading(num_coded, layer.num_recent, 150)
    usage = cache.usage()
    # a profile moves bits from layer to layer
    assert predicted.total == pytest.approx(usage.stored_bytes, rel=0.02)
    assert (num_coded > 0) == (usage.num_quantized_pairs > 0)


def test_uncompressed_bytes_are_what_usage_compares_with():
    for make in (tiny_models.llama, tiny_models.gemma3, tiny_models.gemma4):
        model = make()
        predicted = size_of(model, PRESETS["safe"]).uncompressed(500)
        assert predicted == measured(model, PRESETS["safe"], 500).uncompressed_bytes


def test_shapes_are_those_of_the_config():
    assert layer_shapes(tiny_models.gemma4().config) == (
        LayerShape(4, 2, 16, tiny_models.SLIDING_WINDOW),
        LayerShape(4, 2, 32),
    )
    assert layer_shapes(tiny_variants.VARIANTS["gpt2"]().config)[0] == LayerShape(4, 4, 16)


def test_layers_that_cannot_be_served_are_refused_from_the_config_alone():
    for name in ("latent_attention", "linear_attention", "no_attention", "all_sliding"):
        make, reason = tiny_models.UNSUPPORTED[name]
        with pytest.raises(UnsupportedModelError, match=reason):
            layer_shapes(make().config)


def test_nothing_held_needs_nothing():
    assert StoredSize(layer_shapes(tiny_models.llama().config), OFF, 4).after(0).total == 0
