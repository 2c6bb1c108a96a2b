"""How a model rotates its keys is found out by trying, and right for many families."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import OFF, decode, read
from tiny_models import of_family
from tolerances import error
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

import nexusquant
from nexusquant import QuantConfig
from nexusquant.cache.rotary import find_pairings, rotary_of
from nexusquant.lattice import Pairing

HALVES, NEIGHBOURS, NONE = Pairing.HALVES, Pairing.NEIGHBOURS, Pairing.NONE
FOUR_BIT = replace(OFF, quant=QuantConfig(key_bits=4, value_bits=4))

document = tiny_models.token_ids(200)
answer = tiny_models.token_ids(40, seed=2)


def scaled(rope_type, **parameters):
    """Llama with a scaling of its frequencies; reads far beyond 64 tokens."""
    rope = {"rope_type": rope_type, "rope_theta": 10_000.0, "factor": 4.0} | parameters
    sizes = {"head_dim": 16, "max_position_embeddings": 64}
    return of_family(LlamaForCausalLM, LlamaConfig, rope_parameters=rope, **sizes)


def gpt2():
    config = GPT2Config(vocab_size=tiny_models.VOCABULARY, n_embd=64, n_layer=2, n_head=4)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight.mul_(6)
    return model


def smollm3():
    """Every second layer takes keys as they are."""
    return of_family(SmolLM3ForCausalLM, SmolLM3Config, no_rope_layers=[1, 0])


def longrope():
    """Texts longer than 64 tokens are turned by other frequencies, as in Phi-3.5."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [1.0 + n / 2 for n in range(8)]}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0} | factors
    sizes = {"max_position_embeddings": 256, "original_max_position_embeddings": 64}
    rope["original_max_position_embeddings"] = 64
    return of_family(Phi3ForCausalLM, Phi3Config, rope_parameters=rope, **sizes)


LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": (tiny_models.llama, (HALVES, HALVES)),
    "qwen2": (lambda: tiny_models.qwen2(key_bias=12.0), (HALVES, HALVES)),
    "qwen3": (tiny_models.qwen3, (HALVES, HALVES)),
    "phi3": (tiny_models.phi3, (HALVES, HALVES)),
    "part of a head": (lambda: of_family(GPTNeoXForCausalLM, GPTNeoXConfig), (HALVES, HALVES)),
    "cohere": (lambda: of_family(CohereForCausalLM, CohereConfig), (NEIGHBOURS, NEIGHBOURS)),
    "glm": (lambda: of_family(GlmForCausalLM, GlmConfig, head_dim=16), (NEIGHBOURS, NEIGHBOURS)),
    "smollm3": (smollm3, (HALVES, NONE)),
    "gpt2": (gpt2, (NONE, NONE)),
    "llama3 scaling": (lambda: scaled("llama3", **LLAMA3), (HALVES, HALVES)),
    "yarn scaling": (
        lambda: scaled("yarn", original_max_position_embeddings=64),
        (HALVES, HALVES),
    ),
    "linear scaling": (lambda: scaled("linear"), (HALVES, HALVES)),
    "longrope scaling": (longrope, (HALVES, HALVES)),
    "dynamic scaling": (lambda: scaled("dynamic"), (HALVES, HALVES)),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
def test_pairings_are_those_of_the_family(family):
    make, expected = FAMILIES[family]
    assert find_pairings(make()) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "glm", "smollm3", "yarn scaling"])
def test_narrow_types_do_not_hide_the_pairing(family, dtype):
    make, expected = FAMILIES[family]
    assert find_pairings(make().to(dtype)) == expected


@each_family
def test_the_rotation_found_takes_the_position_out_of_keys(family):
    model = FAMILIES[family][0]()
    if rotary_of(model) is None:
        assert family == "gpt2"
        return
    # one token over and over: without positions all its keys in the first layer are alike
    ids = torch.full((1, 50), 7)
    with torch.no_grad():
        held = model(ids, use_cache=True).past_key_values.layers[0].keys[0].float()
    rotary = rotary_of(model)
    bare = rotary.take_off(held, torch.arange(50), find_pairings(model)[0])
    spread = (bare - bare[:, :1]).norm() / bare.norm()
    assert spread < 1e-4
    assert (held - held[:, :1]).norm() / held.norm() > 0.05


def relative_error(model, config):
    expected = decode(model, nexusquant.prefill(model, document, OFF), answer)
    actual = decode(model, nexusquant.prefill(model, document, config), answer)
    return error(actual, expected) / float(expected.std())


@each_family
def test_four_bits_stay_close_to_the_uncompressed_cache(family):
    model = FAMILIES[family][0]()
    assert 0 < relative_error(model, FOUR_BIT) < 0.08


@pytest.mark.parametrize("family", ["llama", "glm", "smollm3", "yarn scaling"])
def test_the_wrong_pairing_is_no_error_but_costs_precision_at_most(monkeypatch, family):
    # what is taken off with a wrong pairing is put on again: only the basis fits less well
    model = FAMILIES[family][0]()
    for wrong in (NONE, NEIGHBOURS):
        monkeypatch.setattr("nexusquant.cache.profile.find_pairings", lambda _m, w=wrong: (w, w))
        assert relative_error(model, FOUR_BIT) < 0.1


@pytest.mark.parametrize("family", ["dynamic scaling", "longrope scaling", "yarn scaling", "llama"])
def test_a_text_read_before_does_not_hide_the_pairing(family):
    make, expected = FAMILIES[family]
    model = make()
    with torch.no_grad():
        model(tiny_models.token_ids(300), use_cache=False)
    assert find_pairings(model) == expected


def test_frequencies_that_change_during_a_text_are_followed():
    model = scaled("dynamic")
    cache = nexusquant.prefill(model, document[:, :50], FOUR_BIT)
    exact = nexusquant.prefill(model, document[:, :50], OFF)
    for ids in document[:, 50:].split(25, dim=1):
        actual, expected = read(model, cache, ids), read(model, exact, ids)
        cache.finish_prefill()
        exact.finish_prefill()
        assert error(actual, expected) / float(expected.std()) < 0.1
    # the first 50 tokens fit into the model's 64; from then on every longer text is turned anew
    segments = cache.layers[0].codec.rotary.segments
    assert [segment.first for segment in segments] == [0, *range(50, 200, 25)]
    assert torch.equal(segments[-1].frequencies, rotary_of(model).segments[0].frequencies)
    assert not torch.equal(segments[0].frequencies, segments[1].frequencies)


def test_a_saved_cache_of_changed_frequencies_continues_bit_for_bit(tmp_path):
    model = scaled("dynamic")
    cache = nexusquant.prefill(model, document, FOUR_BIT)
    cache.save(tmp_path / "a.nxq")
    loaded = nexusquant.load_cache(tmp_path / "a.nxq", model)
    assert [layer.codec.pairing for layer in loaded.layers] == [HALVES, HALVES]
    assert torch.equal(read(model, loaded, answer), read(model, cache, answer))


def test_the_model_is_left_as_it_was_by_the_trial():
    model = tiny_models.llama()
    before = model.config._attn_implementation
    find_pairings(model)
    assert model.config._attn_implementation == before
    assert all(parameter.grad is None for parameter in model.parameters())
