"""Attention that a cache cannot stand in for is told by what a model does, not by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
import torch
from transformers import (
    CONFIG_MAPPING,
    AttentionInterface,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
)
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaForCausalLM

from nexusquant import CompressedCache, UnsupportedModelError
from nexusquant.cache.layer_choice import supported_layers
from nexusquant.config import CompressionConfig
from nexusquant.engine import plan_memory
from nexusquant.engine.model_loader import check_loadable
from nexusquant.hf import attention_problem

SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_KINDS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
_ENCODER = {k: SIZES[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")}
_ENCODER |= {"num_attention_heads": 4, "intermediate_size": 96}
_MIMO = {
    **_KINDS,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}

REFUSED = {
    "gpt_oss": ({**SIZES, **_EXPERTS, **_KINDS}, "s_aux"),
    "granite_swa": (SIZES, "s_aux"),
    "flint": (SIZES, "s_aux|sink"),
    "mimo_v2_flash": ({**SIZES, **_MIMO}, "s_aux"),
    "bloom": ({"vocab_size": 300, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "of its own"),
    "falcon": ({**_ENCODER, "alibi": True}, "of its own"),
    "mpt": ({"vocab_size": 300, "d_model": 64, "n_heads": 4, "n_layers": 2}, "of its own"),
    "codegen": ({"vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 4}, "of its own"),
    "bert": (_ENCODER, "encoder"),
    "roberta": (_ENCODER, "encoder"),
    "electra": (_ENCODER, "encoder"),
    "vit": ({"hidden_size": 64}, "does not write text"),
    "clip": ({}, "text"),
    "nobody-knows-this": (SIZES, "nobody-knows-this"),
    "diffllama": (SIZES, "keys itself"),
    "doge": (SIZES, "keys itself"),
    "jetmoe": ({**_ENCODER, "num_local_experts": 4, "num_experts_per_tok": 2}, "own numbers"),
    "minimax_m3_vl_text": (
        {**SIZES, **_EXPERTS, "layer_types": ["full_attention", "minimax_m3_sparse"]},
        "minimax_m3_sparse|neither full nor",
    ),
}
SUPPORTED = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "mistral": {**SIZES, "sliding_window": 4096},
    "phi3": {**SIZES, "pad_token_id": 0},
    "gemma": SIZES,
    "gemma3_text": {**SIZES, **_KINDS},
    "smollm3": {**SIZES, "pad_token_id": 0},
    "granite": SIZES,
    "olmo2": SIZES,
    "glm4": {**SIZES, "pad_token_id": 0},
    "stablelm": SIZES,
    "mixtral": {**SIZES, **_EXPERTS},
    "gpt2": {"vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "bert": {**_ENCODER, "is_decoder": True},
}


def write_config(folder: Path, family: str, entries: dict[str, object]) -> Path:
    text = json.dumps({"model_type": family, **entries})
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def made(family: str, entries: dict[str, object]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**entries)
    config._attn_implementation = "eager"
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", REFUSED)
def test_unfit_attention_is_refused_with_nothing_there_but_the_config(
    tmp_path: Path, family: str
) -> None:
    entries, reason = REFUSED[family]
    folder = write_config(tmp_path, family, entries)
    with pytest.raises(UnsupportedModelError, match=reason):
        check_loadable(folder, "cpu", "auto")
    assert [path.name for path in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize("family", SUPPORTED)
def test_models_that_a_cache_can_serve_stay_supported(family: str) -> None:
    assert len(supported_layers(CONFIG_MAPPING[family](**SUPPORTED[family]))) == 2


@pytest.mark.parametrize("family", ["gpt_oss", "falcon", "mimo_v2_flash"])
def test_no_memory_is_planned_for_a_model_that_is_refused(family: str) -> None:
    config = CONFIG_MAPPING[family](**REFUSED[family][0])
    with pytest.raises(UnsupportedModelError, match=REFUSED[family][1]):
        plan_memory(config, CompressionConfig())


@pytest.mark.parametrize("family", ["gpt_oss", "granite_swa", "mimo_v2_flash"])
def test_a_refused_cache_leaves_the_answers_of_its_model_as_they_were(family: str) -> None:
    model = made(family, REFUSED[family][0])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sink" in name:
                parameter.fill_(2.0)
    ids = tiny_models.token_ids(60)

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids, past_key_values=DynamicCache(config=model.config)).logits

    before = answer()
    with pytest.raises(UnsupportedModelError, match="s_aux"):
        CompressedCache(model, CompressionConfig())
    assert torch.equal(answer(), before)


def test_asking_leaves_no_name_in_transformers_registries_and_no_mark_on_the_config() -> None:
    config = CONFIG_MAPPING["qwen2"](**SIZES)
    names = [*AttentionInterface._global_mapping, *AttentionMaskInterface._global_mapping]
    before = config.to_json_string(use_diff=False), config._attn_implementation
    assert attention_problem(config) is None
    assert (config.to_json_string(use_diff=False), config._attn_implementation) == before
    assert [*AttentionInterface._global_mapping, *AttentionMaskInterface._global_mapping] == names
    assert torch.get_default_dtype() == torch.float32
    assert torch.empty(1).device.type == "cpu"


class _Biased(LlamaAttention):
    """A kind that no release has: an unknown tensor goes along to the attention function."""

    def forward(self, *args: object, **options: object) -> tuple[torch.Tensor, object]:
        return super().forward(*args, **{**options, "slopes": torch.ones(4)})


class _Squared(LlamaAttention):
    """Another: keys are read back from the cache and computed with."""

    def forward(self, hidden_states: torch.Tensor, **options: object) -> tuple[torch.Tensor, None]:
        keys = hidden_states.new_zeros((1, 2, hidden_states.shape[1], 16))
        held, _ = options["past_key_values"].update(keys, keys, self.layer_idx)
        return hidden_states * (held**2).sum(), None


@pytest.mark.parametrize(("attention", "reason"), [(_Biased, "slopes"), (_Squared, "keys itself")])
def test_attention_that_nobody_knew_is_judged_by_what_it_does(
    attention: type[LlamaAttention], reason: str
) -> None:
    class Unknown(LlamaForCausalLM):
        def __init__(self, config: object) -> None:
            super().__init__(config)
            for index, layer in enumerate(self.model.layers):
                layer.self_attn = attention(config, index)

    problem = attention_problem(CONFIG_MAPPING["llama"](**SIZES), Unknown)
    assert problem is not None
    assert reason in problem


def test_a_program_that_watches_what_a_model_reads_does_not_have_it_refused(monkeypatch) -> None:
    # sizes that no other test has, so that no answer is remembered
    model, own, seen = made("llama", {**SIZES, "vocab_size": 311}), torch.nn.Embedding.forward, []

    def watched(module: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        seen.extend(ids.flatten().tolist())
        return own(module, ids)

    monkeypatch.setattr(torch.nn.Embedding, "forward", watched)
    ids = tiny_models.token_ids(60)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=CompressedCache(model, CompressionConfig()))
    assert seen == ids.flatten().tolist()


def test_heads_that_cannot_share_are_told_by_both_entries(tmp_path: Path) -> None:
    folder = write_config(tmp_path, "llama", {**SIZES, "num_key_value_heads": 3})
    with pytest.raises(UnsupportedModelError, match=r"num_attention_heads.*num_key_value_heads"):
        check_loadable(folder, "cpu", "auto")
