"""Beyond the trained length: positions of one text are scaled as transformers would scale them."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch
from driving import EVICTING, OFF, SAFE, decode, read
from tiny_models import of_family
from tiny_variants import SCALED, VARIANTS
from tolerances import error
from transformers import (
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import nexusquant
from nexusquant import (
    CacheStateError,
    CompressedCache,
    RopeScaling,
    RopeScalingKind,
    UnsupportedModelError,
)
from nexusquant.cache import can_be_scaled, scalings_for

TRAINED, FACTOR = 64, 8.0
document = tiny_models.token_ids(500)
# what the scaling makes room for, to the last token
answer = tiny_models.token_ids(round(FACTOR * TRAINED) - 500, seed=2)

PARTIAL = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
GEMMA3 = {
    "head_dim": 16,
    "sliding_window": tiny_models.SLIDING_WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
    "half of a head": (Phi3ForCausalLM, Phi3Config, {"rope_parameters": PARTIAL}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, GEMMA3),
}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_kind = pytest.mark.parametrize("kind", RopeScalingKind)


def trained_on_64(family):
    model_class, config_class, options = FAMILIES[family]
    return of_family(model_class, config_class, max_position_embeddings=TRAINED, **options)


def scaled_by_transformers(model, kind):
    """The same weights with the scaling in the config, as a user of transformers writes it."""
    config = copy.deepcopy(model.config)
    parameters = config.rope_parameters.get("full_attention") or config.rope_parameters
    parameters.update(rope_type=str(kind), factor=FACTOR)
    if kind is RopeScalingKind.YARN:
        parameters["original_max_position_embeddings"] = TRAINED
    else:
        # all comes from the length there, which is the longest from the first token on
        parameters["factor"] = 1.0
    config._attn_implementation = "sdpa"
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def prefilled(model, config, kind):
    scaling = RopeScaling(kind=kind, factor=FACTOR)
    return nexusquant.prefill(model, document, config, scaling=scaling)


def answered(model, cache):
    with cache.scaled_positions():
        return decode(model, cache, answer)


def own_logits(model, kind):
    other = scaled_by_transformers(model, kind)
    everything = torch.cat([document, answer], dim=1)
    return read(other, DynamicCache(config=other.config), everything)[document.shape[1] :]


@each_kind
@each_family
def test_logits_are_those_of_a_model_that_transformers_scaled(family, kind):
    model = trained_on_64(family)
    expected = own_logits(model, kind)
    actual = answered(model, prefilled(model, OFF, kind))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=2e-4)
    # and not those of the model as it is
    plain = nexusquant.prefill(model, document, OFF)
    assert error(decode(model, plain, answer), expected) > 0.01


@each_kind
@each_family
def test_compressed_logits_stay_near_them(family, kind):
    model = trained_on_64(family)
    expected = own_logits(model, kind)
    cache = prefilled(model, SAFE, kind)
    assert cache.usage().num_quantized_pairs > 0
    assert error(answered(model, cache), expected) / float(expected.std()) < 0.25


@each_family
def test_the_model_is_as_it_was_before_and_after(family):
    model = trained_on_64(family)
    expected = decode(model, nexusquant.prefill(model, document, EVICTING), answer)
    cache = prefilled(model, EVICTING, RopeScalingKind.YARN)
    answered(model, cache)
    with pytest.raises(RuntimeError), cache.scaled_positions():
        raise RuntimeError
    assert torch.equal(
        decode(model, nexusquant.prefill(model, document, EVICTING), answer), expected
    )


def test_calling_the_model_without_the_scaling_is_refused():
    model = trained_on_64("llama")
    cache = prefilled(model, SAFE, RopeScalingKind.YARN)
    with pytest.raises(CacheStateError, match="scaled_positions"):
        decode(model, cache, answer)
    other = prefilled(model, SAFE, RopeScalingKind.DYNAMIC)
    with pytest.raises(CacheStateError, match="scaled_positions"), other.scaled_positions():
        decode(model, cache, answer)


def test_rewinding_gives_the_same_logits_again():
    model = trained_on_64("llama")
    cache = prefilled(model, EVICTING, RopeScalingKind.YARN)
    mark = cache.mark()
    first = answered(model, cache)
    cache.rewind(mark)
    assert torch.equal(answered(model, cache), first)


@each_kind
def test_a_saved_text_needs_the_same_scaling(kind, tmp_path):
    model = trained_on_64("llama")
    cache = prefilled(model, SAFE, kind)
    cache.save(tmp_path / "a.nxq")
    scaling = RopeScaling(kind=kind, factor=FACTOR)
    loaded = nexusquant.load_cache(tmp_path / "a.nxq", model, scaling=scaling)
    assert torch.equal(answered(model, loaded), answered(model, cache))
    for other in (None, RopeScaling(kind=kind, factor=2 * FACTOR)):
        with pytest.raises(CacheStateError, match="another model"):
            nexusquant.load_cache(tmp_path / "a.nxq", model, scaling=other)


def test_positions_that_are_scaled_already_or_no_rotations_are_not_offered():
    for make in (*SCALED.values(), VARIANTS["gpt2"]):
        model = make()
        assert not can_be_scaled(model.config)
        assert scalings_for(model.config, 100_000) == ()
        with pytest.raises(UnsupportedModelError, match="cannot be scaled"):
            CompressedCache(model, SAFE, scaling=RopeScaling(factor=2))


def test_factors_are_the_least_that_hold_the_text():
    config = trained_on_64("llama").config
    assert scalings_for(config, TRAINED) == ()
    factors = [scalings_for(config, tokens)[0].factor for tokens in (65, 96, 97, 640, 641)]
    assert factors == [1.5, 1.5, 2.0, 10.0, 10.5]
    assert [offer.kind for offer in scalings_for(config, 100)] == list(RopeScalingKind)


def test_a_factor_that_scales_nothing_is_refused():
    for factor in (1, 0.5, float("nan")):
        with pytest.raises(ValueError, match="above 1"):
            RopeScaling(factor=factor)
