"""Two-layer models of many families with random weights: made from configs, nothing is downloaded.

Knows the configs of transformers; knows nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

VOCABULARY = 97
SLIDING_WINDOW = 24

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def _finish(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Evaluation mode, and weights large enough that attention is not flat."""
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
                parameter.mul_(6)
            elif name.endswith(("v_proj.weight", "o_proj.weight", "embed_tokens.weight")):
                parameter.mul_(4)
    return model.to(dtype)


def of_family(
    model_class: type[PreTrainedModel], config_class: type[PreTrainedConfig], **options: object
) -> PreTrainedModel:
    """Any family whose config takes the usual names; `options` come on top of the sizes here."""
    torch.manual_seed(0)
    return _finish(model_class(config_class(**(_SIZES | options))))


def llama(
    seed: int = 0, *, head_dim: int = 16, num_kv_heads: int = 2, dtype: torch.dtype = torch.float32
) -> LlamaForCausalLM:
    """Grouped queries: 4 heads read 2."""
    torch.manual_seed(seed)
    num_heads = 4 if 4 % num_kv_heads == 0 else num_kv_heads
    sizes = _SIZES | {"num_attention_heads": num_heads, "num_key_value_heads": num_kv_heads}
    return _finish(LlamaForCausalLM(LlamaConfig(**sizes, head_dim=head_dim)), dtype)


def smollm_shaped(num_layers: int = 2) -> LlamaForCausalLM:
    """SmolLM2-135M's attention: 9 heads read 3, head_dim 64."""
    torch.manual_seed(0)
    sizes = _SIZES | {
        "hidden_size": 72,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": num_layers,
    }
    return _finish(LlamaForCausalLM(LlamaConfig(**sizes, head_dim=64)))


def qwen2(key_bias: float = 0.0) -> Qwen2ForCausalLM:
    """Biases on queries, keys and values; `key_bias` makes two key channels large."""
    torch.manual_seed(0)
    model = _finish(Qwen2ForCausalLM(Qwen2Config(**_SIZES)))
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
                projection.bias.normal_(std=0.1)
            # the pair of channels that RoPE turns slowest
            layer.self_attn.k_proj.bias[7::8] = key_bias
    return model


def qwen3() -> Qwen3ForCausalLM:
    """Queries and keys are normed."""
    torch.manual_seed(0)
    return _finish(Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=16)))


def phi3() -> Phi3ForCausalLM:
    """One projection for queries, keys and values."""
    torch.manual_seed(0)
    return _finish(Phi3ForCausalLM(Phi3Config(**_SIZES)))


def gemma2() -> Gemma2ForCausalLM:
    """A sliding and a full layer, both with soft-capped logits."""
    torch.manual_seed(0)
    config = Gemma2Config(
        **_SIZES,
        head_dim=16,
        sliding_window=SLIDING_WINDOW,
        attn_logit_softcapping=4.0,
        query_pre_attn_scalar=16,
    )
    model = _finish(Gemma2ForCausalLM(config))
    # older versions of transformers would take SDPA, which leaves the caps out
    model.set_attn_implementation("eager")
    return model


def gemma3() -> Gemma3ForCausalLM:
    """A sliding and a full layer."""
    torch.manual_seed(0)
    layer_types = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        **_SIZES, head_dim=16, sliding_window=SLIDING_WINDOW, layer_types=layer_types
    )
    return _finish(Gemma3ForCausalLM(config))


def mistral_sliding() -> MistralForCausalLM:
    """Every layer sees a window only."""
    return MistralForCausalLM(MistralConfig(**_SIZES, head_dim=16, sliding_window=SLIDING_WINDOW))


def phi3_wide_window() -> Phi3ForCausalLM:
    """A sliding window as wide as the context, as Phi-3.5 and Phi-4-mini have."""
    torch.manual_seed(0)
    return _finish(Phi3ForCausalLM(Phi3Config(**_SIZES, sliding_window=8192)))


def gemma4() -> Gemma4ForCausalLM:
    """A sliding layer, and a full one with another head_dim."""
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        **_SIZES,
        head_dim=16,
        global_head_dim=32,
        sliding_window=SLIDING_WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
    )
    return _finish(Gemma4ForCausalLM(config))


def deepseek_mla() -> DeepseekV3ForCausalLM:
    """Caches a latent instead of keys and values."""
    config = DeepseekV3Config(
        **_SIZES,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        first_k_dense_replace=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
    )
    return DeepseekV3ForCausalLM(config)


def qwen3_next() -> Qwen3NextForCausalLM:
    """A linear-attention layer beside a full one."""
    config = Qwen3NextConfig(
        **_SIZES,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )
    return Qwen3NextForCausalLM(config)


def mamba() -> MambaForCausalLM:
    """No attention at all."""
    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2))


def bloom() -> BloomForCausalLM:
    """Attention code of its own, with a position bias."""
    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2))


FULL_ATTENTION: Mapping[str, Callable[[], PreTrainedModel]] = MappingProxyType(
    {
        "llama": llama,
        "qwen2": qwen2,
        "qwen2_key_bias": lambda: qwen2(key_bias=12.0),
        "qwen3": qwen3,
        "phi3": phi3,
        "head_dim_80": lambda: llama(head_dim=80),
    }
)
"""Families whose every layer sees the whole text."""

HYBRID: Mapping[str, Callable[[], PreTrainedModel]] = MappingProxyType(
    {"gemma2": gemma2, "gemma3": gemma3}
)
"""Families with sliding-window layers among the full ones."""

UNSUPPORTED: Mapping[str, tuple[Callable[[], PreTrainedModel], str]] = MappingProxyType(
    {
        "all_sliding": (mistral_sliding, "sliding window only"),
        "latent_attention": (deepseek_mla, "latent"),
        "linear_attention": (qwen3_next, "neither full nor sliding"),
        "no_attention": (mamba, "attention"),
        "own_attention_code": (bloom, "attention code of its own"),
    }
)
"""Models a compressed cache cannot serve, with a phrase of the reason."""


def token_ids(num_tokens: int, seed: int = 1) -> torch.Tensor:
    """Random tokens. [1, num_tokens], int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (1, num_tokens), generator=generator)
