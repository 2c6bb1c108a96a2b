from __future__ import annotations

import pytest
import tiny_models
import torch
from driving import EVICTING, OFF, SAFE, decode, read
from tolerances import error

import nexusquant
from nexusquant import CompressedCache, CompressionConfig, QuantConfig

document = tiny_models.token_ids(200)
answer = tiny_models.token_ids(70, seed=2)


def exact_types(cache):
    return {held.dtype for layer in cache.layers for held in (*layer.sinks, *layer.recent)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_model_keeps_16_bits(dtype):
    model = tiny_models.llama(dtype=dtype)
    # keys less their mean are small: float16 says more of them than bfloat16
    for config, expected in ((OFF, {dtype}), (SAFE, {dtype, torch.float16})):
        cache = nexusquant.prefill(model, document, config)
        assert exact_types(cache) == expected
        decode(model, cache, answer)
        assert exact_types(cache) == expected


def test_a_float32_model_stores_16_bits_once_the_span_is_closed():
    model = tiny_models.llama()
    cache = CompressedCache(model, SAFE)
    read(model, cache, document)
    assert {layer.recent[0].dtype for layer in cache.layers} == {torch.float32}
    cache.finish_prefill()
    assert exact_types(cache) == {torch.float16}
    decode(model, cache, answer)
    assert exact_types(cache) == {torch.float16}


def test_a_text_that_begins_with_a_single_token_is_stored_in_16_bits():
    model = tiny_models.llama()
    cache = CompressedCache(model, SAFE)
    decode(model, cache, document[:, :1])
    assert exact_types(cache) == {torch.float16}
    decode(model, cache, answer)
    assert exact_types(cache) == {torch.float16}
    read(model, cache, document)
    cache.finish_prefill()
    assert exact_types(cache) == {torch.float16}


def test_off_keeps_float32():
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, document, OFF)
    decode(model, cache, answer)
    assert {layer.recent[0].dtype for layer in cache.layers} == {torch.float32}


def test_values_beyond_float16_saturate():
    cache = CompressedCache(tiny_models.llama(), SAFE)
    keys = torch.full((1, 2, 20, 16), 1e6)
    for index in (0, 1):
        cache.update(keys, -keys, index)
    cache.finish_prefill()
    assert cache.layers[0].recent[0].unique().tolist() == [65504]
    assert cache.layers[0].recent[1].unique().tolist() == [-65504]


@pytest.mark.parametrize("config", [SAFE, EVICTING], ids=["safe", "evicting"])
def test_inference_mode_and_no_grad_can_take_turns(config):
    model = tiny_models.llama()
    # a short span fits into the pages there are, a long one and an answer need new ones
    turns = [answer[:, :6], answer[:, 6:], document]
    plain = nexusquant.prefill(model, document, config)
    expected = []
    for ids in turns:
        expected.append(read(model, plain, ids))
        plain.finish_prefill()
    with torch.inference_mode():
        cache = nexusquant.prefill(model, document, config)
    for ids, logits in zip(turns, expected, strict=True):
        assert torch.equal(read(model, cache, ids), logits)
        cache.finish_prefill()
        with torch.inference_mode():
            mark = cache.mark()
            decode(model, cache, answer[:, :2])
            cache.rewind(mark)


def relative_error(model, config, expected):
    actual = read(model, nexusquant.prefill(model, document, config), answer)
    return error(actual, expected) / float(expected.std())


@pytest.mark.parametrize("key_bias", [0.0, 12.0])
def test_more_bits_bring_the_logits_closer(key_bias):
    model = tiny_models.qwen2(key_bias)
    expected = read(model, nexusquant.prefill(model, document, OFF), answer)
    errors = [
        relative_error(
            model, CompressionConfig(quant=QuantConfig(key_bits=n, value_bits=n)), expected
        )
        for n in (1, 1.5, 2, 2.5, 3, 3.5, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05


def test_a_large_shared_part_of_keys_costs_no_precision():
    errors = []
    for key_bias in (0.0, 50.0):
        model = tiny_models.qwen2(key_bias)
        expected = read(model, nexusquant.prefill(model, document, OFF), answer)
        errors.append(relative_error(model, SAFE, expected))
    assert errors[1] < 2 * errors[0]
