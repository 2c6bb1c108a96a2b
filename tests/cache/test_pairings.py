"""How a model rotates its keys is found out by trying, and right for many families."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import tiny_models
import torch
from driving import OFF, decode, read
from tiny_variants import SCALED, VARIANTS, scaled
from tolerances import error

import nexusquant
from nexusquant import QuantConfig
from nexusquant.cache.rotary import find_pairings, rotary_of
from nexusquant.lattice import Pairing

HALVES, NEIGHBOURS, NONE = Pairing.HALVES, Pairing.NEIGHBOURS, Pairing.NONE
FOUR_BIT = replace(OFF, quant=QuantConfig(key_bits=4, value_bits=4))

document = tiny_models.token_ids(200)
answer = tiny_models.token_ids(40, seed=2)

FAMILIES = {
    "llama": (tiny_models.llama, (HALVES, HALVES)),
    "qwen2": (lambda: tiny_models.qwen2(key_bias=12.0), (HALVES, HALVES)),
    "qwen3": (tiny_models.qwen3, (HALVES, HALVES)),
    "phi3": (tiny_models.phi3, (HALVES, HALVES)),
    "cohere": (VARIANTS["cohere"], (NEIGHBOURS, NEIGHBOURS)),
    "glm": (VARIANTS["glm"], (NEIGHBOURS, NEIGHBOURS)),
    "smollm3": (VARIANTS["smollm3"], (HALVES, NONE)),
    "gpt2": (VARIANTS["gpt2"], (NONE, NONE)),
    **{
        name: (VARIANTS[name], (HALVES, HALVES))
        for name in ("part of a head", "three quarters of a head", "mixtral", "qwen3 experts")
    },
    **{name: (make, (HALVES, HALVES)) for name, make in SCALED.items() if name != "gemma3 scaling"},
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


def add_key_biases(model, norm):
    """Constant keys on the four pairs that turn slowest, as large biases of k_proj are."""
    bias = torch.zeros(3, 2, 32)
    bias[:, :, -4:] = norm / 8**0.5
    for layer in model.model.layers[::3]:
        layer.self_attn.k_proj.register_forward_hook(
            lambda _module, _inputs, keys: keys + bias.flatten().to(keys)
        )


@pytest.mark.model
@pytest.mark.parametrize("norm", [0, 900])
def test_the_noise_of_thirty_layers_in_a_narrow_type_does_not_hide_the_pairing(smollm, norm):
    model = copy.deepcopy(smollm.model).to(torch.bfloat16)
    add_key_biases(model, norm)
    assert set(find_pairings(model)) == {HALVES}


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


# the first 50 tokens fit into the 64 that the model was made for; from then on every longer text is
# turned anew, or all of them by other frequencies
CHANGES = {"dynamic scaling": [0, *range(50, 200, 25)], "longrope scaling": [0, 50]}


@pytest.mark.parametrize("family", CHANGES)
def test_frequencies_that_change_during_a_text_are_followed(family):
    model = SCALED[family]()
    # never measured with the model that reads: it remembers the longest text
    profile = nexusquant.build_profile(SCALED[family](), token_ids=tiny_models.token_ids(256))
    cache = nexusquant.prefill(model, document[:, :50], FOUR_BIT, profile=profile)
    exact = nexusquant.prefill(model, document[:, :50], OFF)
    for ids in document[:, 50:].split(25, dim=1):
        actual, expected = read(model, cache, ids), read(model, exact, ids)
        cache.finish_prefill()
        exact.finish_prefill()
        assert error(actual, expected) / float(expected.std()) < 0.06
    segments = cache.layers[0].codec.rotary.segments
    assert [segment.first for segment in segments] == CHANGES[family]
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
