from __future__ import annotations

import pytest
import tiny_models
import tiny_variants
import torch
from driving import EVICTING, OFF, SAFE, decode, greedy, read
from transformers import DynamicCache

import nexusquant
from nexusquant import CompressedCache, UnsupportedModelError

document = tiny_models.token_ids(200)
answer = tiny_models.token_ids(30, seed=2)

UNSUPPORTED = {**tiny_models.UNSUPPORTED, **tiny_variants.UNSUPPORTED}


@pytest.mark.parametrize("family", UNSUPPORTED)
@pytest.mark.parametrize("config", [OFF, EVICTING], ids=["off", "evicting"])
def test_the_reason_is_named_and_the_model_left_as_it_was(family, config):
    make, reason = UNSUPPORTED[family]
    model = make()
    before = model.config._attn_implementation
    with pytest.raises(UnsupportedModelError, match=reason):
        CompressedCache(model, config)
    assert model.config._attn_implementation == before


def test_a_head_dim_that_is_no_multiple_of_8_stays_uncompressed_and_is_listed():
    model = tiny_models.llama(head_dim=20)
    assert CompressedCache(model, EVICTING).usage().uncompressed_layers == (0, 1)
    reference = DynamicCache(config=model.config)
    expected = torch.cat([read(model, reference, document), decode(model, reference, answer)])
    cache = CompressedCache(model, EVICTING)
    assert torch.equal(
        torch.cat([read(model, cache, document), decode(model, cache, answer)]), expected
    )
    usage = cache.usage()
    assert usage.uncompressed_layers == (0, 1)
    assert (usage.num_quantized_pairs, usage.kept_share) == (0, 1)
    assert cache.kept_shares([(0, 200)]) == [1]


def test_sliding_layers_are_listed_as_uncompressed():
    model = tiny_models.gemma3()
    cache = nexusquant.prefill(model, document, SAFE)
    usage = cache.usage()
    assert usage.uncompressed_layers == (0,)
    assert usage.num_quantized_pairs == (200 - 36) * 2
    assert usage.num_seen_tokens == 200


def test_sliding_layers_let_go_of_what_left_the_window():
    model = tiny_models.gemma3()
    cache = CompressedCache(model, SAFE)
    read(model, cache, document)
    cache.finish_prefill()
    num_values = (tiny_models.SLIDING_WINDOW - 1) * 2 * 16
    assert dict(cache.usage().bytes_by_part)["sliding-window layers"] == 2 * 4 * num_values + 8


def test_a_window_as_wide_as_the_context_is_compressed_like_full_attention():
    model = tiny_models.phi3_wide_window()
    expected = greedy(model, DynamicCache(config=model.config), document, 20)
    assert greedy(model, CompressedCache(model, OFF), document, 20) == expected
    cache = nexusquant.prefill(model, document, EVICTING)
    assert cache.usage().uncompressed_layers == ()
    assert cache.usage().kept_share < 0.6


def test_a_window_that_the_text_outgrows_is_refused():
    model = tiny_models.phi3_wide_window()
    model.config.max_position_embeddings = 100
    model.config.sliding_window = 150
    cache = CompressedCache(model, SAFE)
    read(model, cache, document[:, :140])
    decode(model, cache, document[:, 140:150])
    with pytest.raises(
        UnsupportedModelError, match="window of 150 tokens was asked to attend to 151"
    ):
        decode(model, cache, document[:, :1])


@pytest.mark.parametrize("config", [SAFE, EVICTING], ids=["safe", "evicting"])
def test_layers_may_have_head_dims_of_their_own(config):
    model = tiny_models.gemma4()
    expected = read(model, DynamicCache(config=model.config), document)
    cache = CompressedCache(model, config)
    torch.testing.assert_close(read(model, cache, document), expected, rtol=1e-4, atol=2e-5)
    cache.finish_prefill()
    assert cache.usage().uncompressed_layers == (0,)
    assert cache.usage().num_quantized_pairs > 0
    assert bool(decode(model, cache, document[:, :70]).isfinite().all())


def test_vectors_of_a_size_the_config_did_not_tell_stay_exact():
    model = tiny_models.llama()
    cache = CompressedCache(model, EVICTING)
    keys, values = torch.randn(1, 2, 90, 16), torch.randn(1, 2, 90, 24)
    for index in (0, 1):
        cache.update(keys, values, index)
    cache.finish_prefill()
    usage = cache.usage()
    assert usage.uncompressed_layers == (0, 1)
    assert usage.num_quantized_pairs == 0
    assert torch.equal(cache.layers[0].recent[1], values[0])
