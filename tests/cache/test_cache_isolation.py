from __future__ import annotations

import subprocess
import sys

import pytest
import tiny_models
import torch
from driving import EVICTING, OFF, SAFE, decode, greedy, read
from transformers import DynamicCache

import nexusquant
from nexusquant import CacheStateError, CompressedCache

document = tiny_models.token_ids(150)
other_document = tiny_models.token_ids(120, seed=5)
answer = tiny_models.token_ids(70, seed=6)

REGISTRIES = """
import sys
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, Cache
def state():
    registries = AttentionInterface, AttentionMaskInterface
    names = [sorted(registry._global_mapping) for registry in registries]
    methods = {name: id(value) for name, value in vars(Cache).items()}
    return names, sorted(DYNAMIC_LAYER_TYPE_MAPPING), methods
before = state()
import nexusquant, torch
assert state() == before, "a registry of transformers changed"
assert not torch.cuda.is_initialized(), "the GPU was touched"
assert "gradio" not in sys.modules
"""


@pytest.mark.parametrize("config", [OFF, SAFE, EVICTING], ids=["off", "safe", "evicting"])
def test_two_caches_on_one_model_do_not_see_each_other(config):
    model = tiny_models.llama()
    alone, one = CompressedCache(model, config), CompressedCache(model, config)
    read(model, alone, document, chunk_size=75)
    expected = decode(model, alone, answer)
    other = CompressedCache(model, SAFE)
    read(model, one, document[:, :75])
    read(model, other, other_document[:, :50])
    read(model, one, document[:, 75:])
    for index in range(answer.shape[1]):
        logits = decode(model, one, answer[:, index : index + 1])
        decode(model, other, answer[:, index : index + 1])
        assert torch.equal(logits[0], expected[index])
    assert (one.num_seen_tokens, other.num_seen_tokens) == (220, 120)


def test_a_forward_without_our_cache_between_steps_changes_nothing():
    model = tiny_models.llama()
    alone = decode(model, nexusquant.prefill(model, document, SAFE), answer)
    cache = nexusquant.prefill(model, document, SAFE)
    first = decode(model, cache, answer[:, :40])
    with torch.no_grad():
        model(other_document, use_cache=False)
    greedy(model, DynamicCache(config=model.config), other_document, 3)
    assert torch.equal(torch.cat([first, decode(model, cache, answer[:, 40:])]), alone)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gemma3"])
def test_dynamic_cache_still_gives_the_logits_of_sdpa(family):
    model = {**tiny_models.FULL_ATTENTION, **tiny_models.HYBRID}[family]()
    assert model.config._attn_implementation == "sdpa"
    reference = DynamicCache(config=model.config)
    expected = torch.cat([read(model, reference, document), decode(model, reference, answer)])
    nexusquant.prefill(model, document, SAFE)
    cache = DynamicCache(config=model.config)
    actual = torch.cat([read(model, cache, document), decode(model, cache, answer)])
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_a_left_padded_batch_without_our_cache_is_read_as_before(family):
    model = {**tiny_models.FULL_ATTENTION, **tiny_models.HYBRID}[family]()
    ids = torch.cat([tiny_models.token_ids(40), tiny_models.token_ids(40, seed=2)])
    mask = torch.ones_like(ids)
    mask[0, :13] = 0
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
    expected_text = model.generate(ids, **options)
    CompressedCache(model, SAFE)
    with torch.no_grad():
        actual = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(actual[mask == 1], expected[mask == 1], rtol=1e-4, atol=2e-5)
    assert torch.equal(model.generate(ids, **options), expected_text)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_handle_that_reaches_another_attention_function_fails_loudly(implementation):
    model = tiny_models.llama()
    cache = nexusquant.prefill(model, document, SAFE)
    model.set_attn_implementation(implementation)
    for ids in (answer[:, :1], answer[:, :5]):
        with pytest.raises(CacheStateError, match=r"set_attn_implementation\('nexusquant'\)"):
            read(model, cache, ids)


def test_a_batch_of_two_texts_is_refused():
    model = tiny_models.llama()
    with pytest.raises(ValueError, match="the batch has 2"):
        read(model, CompressedCache(model, SAFE), document.repeat(2, 1))
    with pytest.raises(ValueError, match="one text"):
        nexusquant.prefill(model, document.repeat(2, 1), SAFE)


@pytest.mark.parametrize("position", [0, 70])
def test_a_mask_with_zeros_is_refused(position):
    model = tiny_models.llama()
    mask = torch.ones_like(document)
    mask[0, position] = 0
    with torch.no_grad(), pytest.raises(ValueError, match="no attention mask with zeros"):
        model(document, attention_mask=mask, past_key_values=CompressedCache(model, SAFE))


@pytest.mark.parametrize("config", [OFF, SAFE], ids=["off", "safe"])
def test_a_mask_of_ones_changes_nothing(config):
    model = tiny_models.llama()
    expected = read(model, CompressedCache(model, config), document)
    cache = CompressedCache(model, config)
    with torch.no_grad():
        actual = model(document, attention_mask=torch.ones_like(document), past_key_values=cache)
    assert torch.equal(actual.logits[0], expected)


def test_dropout_is_refused():
    model = tiny_models.llama()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        read(model, CompressedCache(model, SAFE), document)


def test_importing_changes_no_registry_of_transformers():
    done = subprocess.run([sys.executable, "-c", REGISTRIES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
