from __future__ import annotations

import pytest
import tiny_models
import torch
from driving import EVICTING, OFF, SAFE, decode, greedy, read
from transformers import DynamicCache

from nexusquant import CompressedCache

SDPA_FAMILIES = {**tiny_models.FULL_ATTENTION, "gemma3": tiny_models.HYBRID["gemma3"]}
EVERY_FAMILY = {**tiny_models.FULL_ATTENTION, **tiny_models.HYBRID}


def dynamic_logits(model, prompt, answer):
    cache = DynamicCache(config=model.config)
    return torch.cat([read(model, cache, prompt), decode(model, cache, answer)])


@pytest.mark.parametrize("family", SDPA_FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_equal_dynamic_cache_bit_for_bit(family, dtype):
    model = SDPA_FAMILIES[family]().to(dtype)
    prompt, answer = tiny_models.token_ids(70), tiny_models.token_ids(30, seed=2)
    expected = dynamic_logits(model, prompt, answer)
    cache = CompressedCache(model, OFF)
    assert torch.equal(read(model, cache, prompt), expected[:70])
    assert torch.equal(decode(model, cache, answer), expected[70:])


def test_logits_of_a_soft_capped_model_equal_eager_attention():
    model = tiny_models.gemma2()
    prompt, answer = tiny_models.token_ids(70), tiny_models.token_ids(30, seed=2)
    expected = dynamic_logits(model, prompt, answer)
    cache = CompressedCache(model, OFF)
    actual = torch.cat([read(model, cache, prompt), decode(model, cache, answer)])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_second_prompt_in_chunks_equals_dynamic_cache(family):
    model = EVERY_FAMILY[family]()
    first, second = tiny_models.token_ids(40), tiny_models.token_ids(50, seed=2)
    reference = DynamicCache(config=model.config)
    expected = torch.cat([read(model, reference, first), read(model, reference, second)])
    cache = CompressedCache(model, OFF)
    actual = torch.cat([read(model, cache, first), read(model, cache, second, chunk_size=17)])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_greedy_generate_gives_the_same_tokens_as_dynamic_cache(family):
    model, prompt = EVERY_FAMILY[family](), tiny_models.token_ids(40)
    options = {"max_new_tokens": 20, "do_sample": False}
    expected = model.generate(prompt, past_key_values=DynamicCache(config=model.config), **options)
    actual = model.generate(prompt, past_key_values=CompressedCache(model, OFF), **options)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("family", EVERY_FAMILY)
@pytest.mark.parametrize("chunk_size", [7, 64])
def test_chunked_prefill_equals_one_shot_with_compression_off(family, chunk_size):
    model, prompt = EVERY_FAMILY[family](), tiny_models.token_ids(130)
    whole, chunked = CompressedCache(model, OFF), CompressedCache(model, OFF)
    expected = read(model, whole, prompt)
    actual = read(model, chunked, prompt, chunk_size)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)
    question = tiny_models.token_ids(2, seed=3)
    assert greedy(model, chunked, question, 10) == greedy(model, whole, question, 10)


@pytest.mark.parametrize("config", [SAFE, EVICTING], ids=["safe", "evicting"])
@pytest.mark.parametrize("family", ["llama", "qwen2_key_bias", "gemma3"])
def test_chunked_prefill_equals_one_shot_with_compression_on(config, family):
    model, prompt = EVERY_FAMILY[family](), tiny_models.token_ids(300)
    whole, chunked = CompressedCache(model, config), CompressedCache(model, config)
    # the span is exact while it is open, so that chunks change nothing of what is coded
    torch.testing.assert_close(
        read(model, chunked, prompt, 37), read(model, whole, prompt), rtol=1e-4, atol=2e-5
    )
    answer = tiny_models.token_ids(20, seed=3)
    # a basis that is fitted to the text is rounded to whole numbers: a last bit can change some
    torch.testing.assert_close(
        decode(model, chunked, answer), decode(model, whole, answer), rtol=1e-2, atol=5e-3
    )
    assert chunked.usage().num_stored_pairs == whole.usage().num_stored_pairs


def test_everything_is_listed_as_uncompressed():
    model = tiny_models.llama()
    cache = CompressedCache(model, OFF)
    read(model, cache, tiny_models.token_ids(200))
    cache.finish_prefill()
    usage = cache.usage()
    assert usage.uncompressed_layers == (0, 1)
    assert usage.num_quantized_pairs == 0
    # float32 is twice the 16 bits that sizes are compared with
    assert usage.compression_factor == pytest.approx(0.5)
