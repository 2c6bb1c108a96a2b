"""More families than `tiny_models` has: rotations, scalings, experts, tied embeddings.

Knows the configs of transformers; knows nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from tiny_models import SLIDING_WINDOW, VOCABULARY, of_family
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

TRAINED_LENGTH = 64
"""Tokens that the models with a scaling were made for before it."""

_EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}


def scaled(rope_type: str, **parameters: object) -> PreTrainedModel:
    """Llama with a scaling of its frequencies; reads far beyond 64 tokens."""
    rope = {"rope_type": rope_type, "rope_theta": 10_000.0, "factor": 4.0} | parameters
    sizes = {"head_dim": 16, "max_position_embeddings": TRAINED_LENGTH}
    return of_family(LlamaForCausalLM, LlamaConfig, rope_parameters=rope, **sizes)


def llama3_scaled() -> PreTrainedModel:
    """Slow frequencies alone are stretched, as in Llama 3.1."""
    bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return scaled("llama3", original_max_position_embeddings=TRAINED_LENGTH, **bounds)


def longrope() -> PreTrainedModel:
    """Texts longer than 64 tokens are turned by other frequencies, as in Phi-3.5."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [1.0 + n / 2 for n in range(8)]}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0} | factors
    sizes = {"max_position_embeddings": 256, "original_max_position_embeddings": TRAINED_LENGTH}
    rope["original_max_position_embeddings"] = TRAINED_LENGTH
    return of_family(Phi3ForCausalLM, Phi3Config, rope_parameters=rope, **sizes)


def phi4_mini() -> PreTrainedModel:
    """Three quarters of a head are turned, embeddings are tied."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75}
    return of_family(Phi3ForCausalLM, Phi3Config, rope_parameters=rope, tie_word_embeddings=True)


def gpt2() -> PreTrainedModel:
    """Positions are learned; nothing is turned."""
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=2048, n_embd=64, n_layer=2, n_head=4)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight.mul_(6)
    return model


def smollm3() -> PreTrainedModel:
    """Every second layer takes keys as they are."""
    return of_family(SmolLM3ForCausalLM, SmolLM3Config, no_rope_layers=[1, 0])


def qwen2_moe() -> PreTrainedModel:
    """Experts beside one that every token takes; biases."""
    sizes = {"num_experts": 4, "shared_expert_intermediate_size": 32}
    return of_family(Qwen2MoeForCausalLM, Qwen2MoeConfig, **sizes, **_EXPERTS)


def qwen3_moe() -> PreTrainedModel:
    """Experts; queries and keys are normed."""
    return of_family(Qwen3MoeForCausalLM, Qwen3MoeConfig, num_experts=4, head_dim=16, **_EXPERTS)


def gemma3_scaled() -> PreTrainedModel:
    """The full layer's frequencies are stretched, the sliding layer's are not, as in Gemma 3 4B."""
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    }
    options = {"head_dim": 16, "sliding_window": SLIDING_WINDOW, "rope_parameters": rope}
    kinds = ["sliding_attention", "full_attention"]
    return of_family(Gemma3ForCausalLM, Gemma3TextConfig, layer_types=kinds, **options)


def gemma4_shared() -> PreTrainedModel:
    """The last two layers read the keys and values of the two before them."""
    options = {
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": SLIDING_WINDOW,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 2,
    }
    return of_family(Gemma4ForCausalLM, Gemma4TextConfig, **options)


def t5() -> PreTrainedModel:
    """An encoder and a decoder."""
    return T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
    )


SCALED: Mapping[str, Callable[[], PreTrainedModel]] = MappingProxyType(
    {
        "llama3 scaling": llama3_scaled,
        "yarn scaling": lambda: scaled("yarn", original_max_position_embeddings=TRAINED_LENGTH),
        "linear scaling": lambda: scaled("linear"),
        "dynamic scaling": lambda: scaled("dynamic"),
        "longrope scaling": longrope,
        "gemma3 scaling": gemma3_scaled,
    }
)
"""Models that read beyond the length they were trained for."""

VARIANTS: Mapping[str, Callable[[], PreTrainedModel]] = MappingProxyType(
    {
        "mistral": lambda: of_family(MistralForCausalLM, MistralConfig, sliding_window=None),
        "tied embeddings": lambda: of_family(
            LlamaForCausalLM, LlamaConfig, tie_word_embeddings=True
        ),
        "tied embeddings and biases": lambda: of_family(
            Qwen2ForCausalLM, Qwen2Config, tie_word_embeddings=True
        ),
        "part of a head": lambda: of_family(GPTNeoXForCausalLM, GPTNeoXConfig),
        "half of a head": lambda: of_family(PhiForCausalLM, PhiConfig),
        "three quarters of a head": phi4_mini,
        "cohere": lambda: of_family(CohereForCausalLM, CohereConfig),
        "glm": lambda: of_family(GlmForCausalLM, GlmConfig, head_dim=16),
        "smollm3": smollm3,
        "gpt2": gpt2,
        "mixtral": lambda: of_family(MixtralForCausalLM, MixtralConfig, num_local_experts=4),
        "qwen2 experts": qwen2_moe,
        "qwen3 experts": qwen3_moe,
    }
)
"""Families that differ from those of `tiny_models` in one thing each."""

UNSUPPORTED: Mapping[str, tuple[Callable[[], PreTrainedModel], str]] = MappingProxyType(
    {"shared_keys": (gemma4_shared, "of other layers"), "encoder_decoder": (t5, "encoder")}
)
"""Models a compressed cache cannot serve, with a phrase of the reason."""
