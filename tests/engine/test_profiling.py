"""Measuring a model: what comes of it, and that the model is left as it was."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from transformers import DynamicCache

import nexusquant
from nexusquant.cache import ProfileBuilder
from nexusquant.cache.profile_builder import NUM_NEAR
from nexusquant.engine import LoadedModel
from nexusquant.engine.profiling import TOKENS_PER_TEXT, builtin_texts, profile_steps
from nexusquant.errors import UnsupportedModelError

ids = tiny_models.token_ids(400)


def test_every_layer_gets_a_basis_of_its_shape():
    profile = nexusquant.build_profile(tiny_models.llama(), token_ids=ids)
    for basis in profile.bases:
        assert basis.mean.shape == (2, 1, 16)
        assert basis.rows.shape == (2, 16, 16)
        assert basis.variances.shape == (2, 2)
        assert (basis.variances > 0).all()


def test_the_same_text_gives_the_same_profile():
    one, other = (nexusquant.build_profile(tiny_models.llama(), token_ids=ids) for _ in range(2))
    for mine, others in zip(one.bases, other.bases, strict=True):
        torch.testing.assert_close(mine.variances, others.variances, rtol=1e-3, atol=0)


def test_a_key_whose_error_costs_nothing_gets_few_bits():
    # attention of the last layer reads values alone: with no weight on its output, keys are free
    model = tiny_models.llama()
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    first, last = nexusquant.build_profile(model, token_ids=ids).bases
    assert last.variances.sum() < 1e-6 * first.variances.sum()


def test_values_that_nobody_reads_cost_nothing():
    model = tiny_models.llama()
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    first, last = nexusquant.build_profile(model, token_ids=ids).value_costs
    assert 0 <= last < 1e-6 * first


@pytest.mark.parametrize("layer", [0, 1])
def test_the_cost_of_values_tells_what_an_error_in_them_does_to_later_tokens(layer):
    model = tiny_models.llama()
    num_kv_heads = model.config.num_key_value_heads
    cost = nexusquant.build_profile(model, token_ids=ids).value_costs[layer]
    # the divergence is half of what the Fisher information says, to second order
    error = 1e-4
    predicted = error * num_kv_heads * cost / 2
    assert divergence(model.double(), layer, error) == pytest.approx(predicted, rel=0.4)


def divergence(model, layer, error):
    """From what follows exact values to what follows values with errors of that relative energy.

    Tokens, weights and which values have errors are those of the profile.
    """
    num_past = 2 * ids.shape[1] // 3
    new = torch.cat([ids[:, num_past:], ids[:, :num_past]], dim=1)
    num_rest = ids.shape[1] - num_past
    log_p = after(model, ids[:, :num_past], new, layer, 0.0)
    log_q = after(model, ids[:, :num_past], new, layer, error)
    each = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return float(each[:num_rest].mean() + 0.1 * each[num_rest:].mean())


@torch.no_grad()
def after(model, past, new, layer, error):
    cache = DynamicCache(config=model.config)
    model(past, past_key_values=cache)
    values = cache.layers[layer].values
    far = values[:, :, 4 : values.shape[2] - NUM_NEAR]
    noise = torch.randn(far.shape, generator=torch.Generator().manual_seed(0), dtype=far.dtype)
    far += noise * (error * far.square().mean(dim=-1, keepdim=True)).sqrt()
    return model(new, past_key_values=cache).logits[0].log_softmax(dim=-1)


def test_the_model_is_left_as_it_was():
    model = tiny_models.llama()
    before = model(ids, use_cache=False).logits
    nexusquant.build_profile(model, token_ids=ids)
    assert model.config._attn_implementation == "sdpa"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert not model(ids, use_cache=False, output_hidden_states=False).logits.isnan().any()
    assert torch.equal(model(ids, use_cache=False).logits, before)


def test_it_works_inside_no_grad():
    with torch.no_grad():
        profile = nexusquant.build_profile(tiny_models.llama(), token_ids=ids)
    assert all((basis.variances > 0).all() for basis in profile.bases)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_models_can_be_measured(dtype):
    exact = nexusquant.build_profile(tiny_models.llama(), token_ids=ids)
    rounded = nexusquant.build_profile(tiny_models.llama(dtype=dtype), token_ids=ids)
    for one, other in zip(exact.bases, rounded.bases, strict=True):
        torch.testing.assert_close(other.mean, one.mean, atol=0.05, rtol=0.05)


def test_builtin_texts_are_read_with_the_models_tokenizer(tiny: LoadedModel):
    texts = builtin_texts(tiny.tokenizer)
    assert [text.shape for text in texts] == [(1, TOKENS_PER_TEXT)] * 3
    assert not torch.equal(texts[0], texts[1])


def test_progress_rises_to_its_end(tiny: LoadedModel):
    seen = []
    texts = [text[:, :200] for text in builtin_texts(tiny.tokenizer)]
    steps = profile_steps(tiny.model, texts)
    for progress in steps:
        seen.append(progress.fraction)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)


def test_too_little_to_measure_with_is_refused():
    with pytest.raises(ValueError, match="100 tokens; measuring a model takes 256"):
        nexusquant.build_profile(tiny_models.llama(), token_ids=ids[:, :100])
    with pytest.raises(ValueError, match="Give the model's tokenizer"):
        nexusquant.build_profile(tiny_models.llama())


def test_a_model_without_gradients_is_refused_and_left_as_it_was():
    model = tiny_models.llama()
    cut = model.model.norm.register_forward_hook(lambda _m, _i, output: output.detach())
    with pytest.raises(UnsupportedModelError, match="No gradients flow"):
        nexusquant.build_profile(model, token_ids=ids)
    cut.remove()
    assert model.config._attn_implementation == "sdpa"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_keys_that_no_gradient_reaches_are_refused():
    model = tiny_models.llama()
    # quantized weights that were packed for inference pass none on
    builder = ProfileBuilder(model)
    builder.add_keys(0, torch.randn(1, 2, 400, 16), torch.randn(1, 2, 300, 16))
    with pytest.raises(UnsupportedModelError, match="No gradients flow"):
        builder.build()


def test_weights_that_are_not_finite_are_refused():
    model = tiny_models.llama()
    model.model.layers[0].self_attn.k_proj.weight.data[0] = float("nan")
    with pytest.raises(UnsupportedModelError):
        nexusquant.build_profile(model, token_ids=ids)
