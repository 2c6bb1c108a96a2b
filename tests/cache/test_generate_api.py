from __future__ import annotations

import pytest
import tiny_models
import torch
from driving import EVICTING, OFF, SAFE, greedy, read

import nexusquant
from nexusquant import CompressedCache

CONFIGS = {"off": OFF, "safe": SAFE, "evicting": EVICTING}
NUM_DOCUMENT, NUM_NEW = 300, 10
OPTIONS = {"max_new_tokens": NUM_NEW, "do_sample": False}

document = tiny_models.token_ids(NUM_DOCUMENT)


@pytest.fixture(scope="module", params=["llama", "gemma2", "gemma3"])
def model(request):
    return {**tiny_models.FULL_ATTENTION, **tiny_models.HYBRID}[request.param]()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("num_question", [1, 6, 400])
def test_new_ids_with_a_mask_of_the_full_length_continue_the_text(model, config, num_question):
    question = tiny_models.token_ids(num_question, seed=7)
    expected = greedy(
        model, nexusquant.prefill(model, document, CONFIGS[config]), question, NUM_NEW
    )
    cache = nexusquant.prefill(model, document, CONFIGS[config])
    mask = torch.ones(1, cache.num_seen_tokens + num_question, dtype=torch.long)
    out = model.generate(question, attention_mask=mask, past_key_values=cache, **OPTIONS)
    assert out[0, num_question:].tolist() == expected
    assert cache.num_seen_tokens == NUM_DOCUMENT + num_question + NUM_NEW - 1


@pytest.mark.parametrize("config", CONFIGS)
def test_all_ids_of_the_text_continue_it(model, config):
    question = tiny_models.token_ids(6, seed=7)
    expected = greedy(
        model, nexusquant.prefill(model, document, CONFIGS[config]), question, NUM_NEW
    )
    cache = nexusquant.prefill(model, document, CONFIGS[config])
    whole = torch.cat([document, question], dim=1)
    out = model.generate(whole, past_key_values=cache, **OPTIONS)
    assert out[0, whole.shape[1] :].tolist() == expected


@pytest.mark.parametrize("config", CONFIGS)
def test_an_empty_cache_handed_to_generate_is_filled_by_it(model, config):
    cache = CompressedCache(model, CONFIGS[config])
    out = model.generate(document, past_key_values=cache, **OPTIONS)
    by_hand = CompressedCache(model, CONFIGS[config])
    assert out[0, NUM_DOCUMENT:].tolist() == greedy(model, by_hand, document, NUM_NEW)
    assert cache.num_seen_tokens == NUM_DOCUMENT + NUM_NEW - 1
    assert cache.usage().stored_bytes == by_hand.usage().stored_bytes


def test_new_ids_alone_are_refused_with_what_to_pass(model):
    cache = nexusquant.prefill(model, document, SAFE)
    with pytest.raises(ValueError, match="attention_mask of the full length"):
        model.generate(tiny_models.token_ids(6, seed=7), past_key_values=cache, **OPTIONS)


def test_sampling_with_generate_draws_what_the_manual_loop_draws(model):
    options = {"max_new_tokens": 8, "do_sample": True, "top_k": 0, "temperature": 1.0}
    torch.manual_seed(3)
    out = model.generate(document, past_key_values=CompressedCache(model, SAFE), **options)
    torch.manual_seed(3)
    cache, ids, drawn = CompressedCache(model, SAFE), document, []
    for _ in range(8):
        weights = read(model, cache, ids)[-1:].float().softmax(-1)
        ids = torch.multinomial(weights, 1)
        drawn.append(int(ids))
    assert out[0, NUM_DOCUMENT:].tolist() == drawn


def test_beam_search_is_refused(model):
    cache = CompressedCache(model, SAFE)
    with pytest.raises(ValueError, match="holds one text"):
        model.generate(document, past_key_values=cache, num_beams=2, max_new_tokens=4)


def test_the_manual_loop_reads_the_positions_that_follow_the_text(model):
    whole = tiny_models.token_ids(60)
    cache = CompressedCache(model, OFF)
    at_once = read(model, cache, whole)
    cache = nexusquant.prefill(model, whole[:, :41], OFF)
    torch.testing.assert_close(
        read(model, cache, whole[:, 41:]), at_once[41:], rtol=1e-4, atol=2e-5
    )
