"""A model takes one token by fewer kernels, and gives what it gives by its own."""

from __future__ import annotations

from types import ModuleType

import pytest
import tiny_models
import torch
from torch import nn
from transformers import DynamicCache
from transformers.models.llama import modeling_llama

from nexusquant.cache import OneTokenForwards, hf_one_token

FAMILIES = {**tiny_models.FULL_ATTENTION, **tiny_models.HYBRID}
TOKEN = tiny_models.token_ids(1)


def logits_after(model: nn.Module, token: torch.Tensor = TOKEN) -> torch.Tensor:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(tiny_models.token_ids(20), past_key_values=cache)
        return model(token, past_key_values=cache).logits


@pytest.fixture
def calls(monkeypatch):
    """Names of what stood in for something, with the models' own doing the work."""
    found = []
    for name in ("norm_one", "rotate_one", "linear_one", "gated_one", "projections_one"):
        own = getattr(hf_one_token, name)

        def watched(*given, own=own, name=name):
            found.append(name)
            return own(*given)

        monkeypatch.setattr(hf_one_token, name, watched)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_same_logits(family):
    model = FAMILIES[family]().to(torch.bfloat16)
    expected = logits_after(model)
    forwards = OneTokenForwards(model)
    assert forwards.num_replaced > 0
    with forwards.in_force():
        actual = logits_after(model)
    # some round a norm's quotient later than others
    assert (actual - expected).norm() <= 0.01 * expected.norm()
    assert torch.equal(logits_after(model), expected)


def test_a_llama_goes_this_way_for_everything_between_two_attentions(calls):
    model = tiny_models.llama().to(torch.bfloat16)
    expected = logits_after(model)
    forwards = OneTokenForwards(model)
    calls.clear()
    with forwards.in_force():
        assert torch.equal(logits_after(model), expected)
    num_layers = model.config.num_hidden_layers
    # norms of twenty tokens go this way too
    for name in ("rotate_one", "gated_one", "projections_one"):
        assert calls.count(name) == num_layers
    assert calls.count("norm_one") == 2 * (2 * num_layers + 1)
    # the prompt's last token alone makes logits, if it is asked for
    assert calls.count("linear_one") == 2 * num_layers + 1


def test_more_tokens_and_other_types_go_the_models_own_way(calls):
    model = tiny_models.llama()
    wide = OneTokenForwards(model)
    calls.clear()
    with wide.in_force():
        logits_after(model)
    assert set(calls) <= {"norm_one", "rotate_one"}
    model = tiny_models.llama().to(torch.bfloat16)
    forwards = OneTokenForwards(model)
    calls.clear()
    with forwards.in_force():
        logits_after(model, tiny_models.token_ids(2))
    assert set(calls) == {"norm_one"}


def test_a_key_of_another_vector_than_the_querys_is_its_own():
    model = tiny_models.llama().to(torch.bfloat16)
    attention = model.model.layers[0].self_attn
    one, other = torch.randn(2, 1, 1, 64).to(torch.bfloat16)
    expected = [attention.q_proj(one), attention.k_proj(other), attention.v_proj(one)]
    with OneTokenForwards(model).in_force():
        actual = [attention.q_proj(one), attention.k_proj(other), attention.v_proj(one)]
        # nothing is left of them for the next token
        again = attention.k_proj(one)
    assert all(map(torch.equal, actual, expected))
    assert torch.equal(again, attention.k_proj(one))


def test_an_adapter_around_a_projection_is_not_passed_by():
    model = tiny_models.llama().to(torch.bfloat16)
    forwards = OneTokenForwards(model)
    attention = model.model.layers[0].self_attn
    own = attention.k_proj
    attention.k_proj = nn.Sequential(own, nn.Linear(32, 32, dtype=torch.bfloat16))
    expected = logits_after(model)
    with forwards.in_force():
        assert torch.equal(logits_after(model), expected)


def test_nothing_stays_replaced():
    model = tiny_models.llama().to(torch.bfloat16)
    own = modeling_llama.apply_rotary_pos_emb
    forwards = OneTokenForwards(model)
    with pytest.raises(KeyError), forwards.in_force():
        assert modeling_llama.apply_rotary_pos_emb is not own
        raise KeyError
    assert modeling_llama.apply_rotary_pos_emb is own
    assert not any("forward" in vars(module) for module in model.modules())


class OffsetRMSNorm(nn.Module):
    """Like Gemma's: one more than the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(64)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


def test_a_norm_that_does_something_else_is_left_alone():
    model = tiny_models.llama()
    before = OneTokenForwards(tiny_models.llama()).num_replaced
    model.model.norm = OffsetRMSNorm()
    assert OneTokenForwards(model).num_replaced == before - 1


def test_a_rotation_of_neighbours_is_left_alone(monkeypatch):
    own = modeling_llama.apply_rotary_pos_emb

    def of_neighbours(query, key, cos, sin, unsqueeze_dim=1):
        order = torch.arange(query.shape[-1]).view(2, -1).T.flatten()
        return own(query[..., order], key[..., order], cos, sin)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", of_neighbours)
    with OneTokenForwards(tiny_models.llama()).in_force():
        assert modeling_llama.apply_rotary_pos_emb is of_neighbours


def test_what_a_hook_took_over_is_left_alone():
    model = tiny_models.llama().to(torch.bfloat16)
    before = OneTokenForwards(tiny_models.llama().to(torch.bfloat16)).num_replaced
    layer = model.model.layers[0].self_attn.q_proj
    layer.forward = layer.forward
    forwards = OneTokenForwards(model)
    assert forwards.num_replaced == before - 1
    with forwards.in_force():
        pass
    assert "forward" in vars(layer)


def test_a_module_without_such_a_function_is_no_home():
    homes = hf_one_token._homes_of_rotations(tiny_models.llama())
    assert homes == [modeling_llama]
    assert all(isinstance(home, ModuleType) for home in homes)
