from __future__ import annotations

import pytest
import torch
from cache_walker import reachable_bytes
from driving import EVICTING, decode, greedy, read
from transformers import DynamicCache

import nexusquant
from nexusquant import PRESETS, CompressedCache
from nexusquant.engine.prefill import prefill_chunks
from nexusquant.engine.rereading import reread_chunks

pytestmark = pytest.mark.model

SENTENCE = (
    "The lighthouse keeper wrote down the weather every evening: wind, clouds, the height of the "
    "waves, and the names of the ships that passed the cape. "
)


@pytest.fixture(scope="module")
def text_ids(smollm):
    facts = "".join(
        f"On day {day} the ship Aurora-{day * 7 % 100} passed. {SENTENCE}" for day in range(120)
    )
    return smollm.tokenizer(facts, return_tensors="pt")["input_ids"]


def test_4096_tokens_shrink_to_what_the_presets_promise(smollm, text_ids):
    high = CompressedCache(smollm.model, PRESETS["high"])
    for _ in prefill_chunks(smollm.model, text_ids[:, :4096], high):
        pass
    # the span is exact still: the same keys and values, without reading the text again
    safe = CompressedCache(smollm.model, PRESETS["safe"])
    for index, layer in enumerate(high.layers):
        safe.update(layer.recent[0][None], layer.recent[1][None], index)
    for _ in reread_chunks(smollm.model, text_ids[:, :4096], high):
        pass
    for cache, least in ((safe, 6.5), (high, 10)):
        cache.finish_prefill()
        usage = cache.usage()
        assert usage.uncompressed_bytes == 30 * 2 * 3 * 64 * 4096 * 2
        assert usage.stored_bytes == reachable_bytes(cache)
        assert usage.stored_bytes <= usage.uncompressed_bytes / least


def test_off_equals_dynamic_cache_bit_for_bit(smollm, text_ids):
    model, prompt, answer = smollm.model, text_ids[:, :100], text_ids[:, 100:130]
    reference = DynamicCache(config=model.config)
    expected = torch.cat([read(model, reference, prompt), decode(model, reference, answer)])
    cache = CompressedCache(model, PRESETS["off"])
    assert torch.equal(
        torch.cat([read(model, cache, prompt), decode(model, cache, answer)]), expected
    )


def test_safe_finds_the_likeliest_token_as_the_uncompressed_model_does(smollm, text_ids):
    model, prompt, rest = smollm.model, text_ids[:, :500], text_ids[:, 500:525]
    expected = decode(model, nexusquant.prefill(model, prompt, PRESETS["off"]), rest)
    actual = decode(model, nexusquant.prefill(model, prompt, PRESETS["safe"]), rest)
    assert (actual.argmax(-1) == expected.argmax(-1)).float().mean() >= 0.9


def test_an_evicted_document_can_be_asked_again_and_again(smollm, text_ids):
    model = smollm.model
    cache = nexusquant.prefill(model, text_ids[:, :300], EVICTING)
    mark = cache.mark()
    question = text_ids[:, 300:308]
    first = greedy(model, cache, question, 10)
    cache.rewind(mark)
    greedy(model, cache, text_ids[:, 400:500], 5)
    cache.rewind(mark)
    assert greedy(model, cache, question, 10) == first
