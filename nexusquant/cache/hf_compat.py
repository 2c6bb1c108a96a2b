"""Every touch of transformers that may change between its versions, and nothing else.

Tested with transformers 5.17 and 5.23.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

import torch
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.cache_utils import DynamicSlidingWindowLayer as SlidingLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from nexusquant.errors import UnsupportedModelError
from nexusquant.kernels import attend_exactly

__all__ = [
    "Cache",
    "CacheLayerMixin",
    "SlidingLayer",
    "causal_sdpa",
    "default_layers",
    "forward_options",
    "head_counts",
    "head_dims",
    "keys_at",
    "plain_sdpa",
    "plain_softcapped",
    "rope_settings",
    "select_attention",
    "trained_length",
]


def select_attention(model: PreTrainedModel, name: str, function: Callable) -> None:
    """Register an attention function with its mask function and make the model use it.

    Args:
        model: Changed in place: its attention implementation becomes `name`.
        name: Key in both of transformers' registries.
        function: Called by every attention module instead of SDPA.

    Raises:
        UnsupportedModelError: The model does not go through the attention interface.
    """
    # without a mask function of the same name transformers builds no mask at all, silently
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)
    if model.config._attn_implementation == name:
        return
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise UnsupportedModelError(
            f"{type(model).__name__} has attention code of its own that cannot read packed pages."
        )


def default_layers(config: PreTrainedConfig) -> list[CacheLayerMixin]:
    """The cache layers that transformers itself would make for a model of this config.

    Raises:
        UnsupportedModelError: A kind of layer that a compressed cache cannot stand in for.
    """
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            "This model has an encoder and a decoder (encoder-decoder); Nexusquant serves models "
            "that only decode."
        )
    config = config.get_text_config(decoder=True)
    if getattr(config, "kv_lora_rank", None):
        raise UnsupportedModelError(
            "This model caches a latent instead of keys and values (multi-head latent attention); "
            "there is nothing for Nexusquant to compress."
        )
    if getattr(config, "num_kv_shared_layers", None):
        raise UnsupportedModelError(
            f"{config.num_kv_shared_layers} layers of this model read the keys and values of other "
            "layers, which a compressed cache does not share yet."
        )
    layers = DynamicCache(config=config).layers or [
        DynamicLayer() for _ in range(config.num_hidden_layers)
    ]
    context_length = getattr(config, "max_position_embeddings", None) or 0
    for index, layer in enumerate(layers):
        if isinstance(layer, SlidingLayer) and layer.sliding_window >= context_length > 0:
            # a window as wide as the context (Phi-3.5, Phi-4-mini) hides nothing
            layers[index] = DynamicLayer()
        elif type(layer) not in (DynamicLayer, SlidingLayer):
            raise UnsupportedModelError(
                f"Layer {index} of this model keeps a {type(layer).__name__}, which is neither "
                "full nor sliding-window attention."
            )
    return layers


def head_dims(config: PreTrainedConfig) -> list[int]:
    """Values in one key of one head, for every layer: in some models they differ."""
    config = config.get_text_config(decoder=True)
    return [
        getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
        for layer in config.per_layer_config
    ]


def head_counts(config: PreTrainedConfig) -> list[tuple[int, int]]:
    """Heads of queries, and of keys and values, for every layer."""
    config = config.get_text_config(decoder=True)
    return [
        (
            layer.num_attention_heads,
            getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads,
        )
        for layer in config.per_layer_config
    ]


def rope_settings(model: PreTrainedModel) -> str:
    """How the model turns positions into angles, as text: keys depend on it as on weights."""
    config = model.config.get_text_config(decoder=True)
    return json.dumps(getattr(config, "rope_parameters", None), sort_keys=True, default=str)


def trained_length(config: PreTrainedConfig) -> int | None:
    """Tokens of the longest text that the model was made for; None where nothing is said."""
    config = config.get_text_config(decoder=True)
    return getattr(config, "max_position_embeddings", None)


def keys_at(model: PreTrainedModel, token_ids: torch.Tensor, position: int) -> list[torch.Tensor]:
    """The keys that every layer would cache for each of `token_ids` [T], alone, at `position`.

    Returns:
        [H_kv, T, D] of each layer. A token by itself attends to itself only, wherever it stands:
        keys at two positions differ by their rotation, and not by the noise of what came before.

    Raises:
        TypeError: The model takes no positions.
    """
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    alone = token_ids.unsqueeze(1)
    with torch.no_grad():
        model(
            input_ids=alone,
            position_ids=torch.full_like(alone, position),
            past_key_values=cache,
            use_cache=True,
            **forward_options(model),
        )
    return [layer.keys[:, :, 0].transpose(0, 1) for layer in cache.layers]


def plain_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Transformers' own SDPA, for layers and caches that are not ours."""
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def plain_softcapped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    dropout: float,
    softcap: float,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Transformers' eager attention for models that cap their logits, which SDPA cannot do."""
    if attention_mask is None:
        q_len, kv_len = query.shape[2], key.shape[2]
        attention_mask = torch.ones((q_len, kv_len), dtype=torch.bool, device=query.device)
        attention_mask = attention_mask.tril(kv_len - q_len)[None, None]
    rows = query.unflatten(1, (key.shape[1], -1))
    logits = torch.tanh((rows @ key.unsqueeze(2).transpose(-1, -2)) * (scaling / softcap)) * softcap
    logits = logits.masked_fill(~attention_mask.unsqueeze(2), torch.finfo(logits.dtype).min)
    weights = logits.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value.unsqueeze(2)).flatten(1, 2).transpose(1, 2).contiguous(), None


def causal_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Transformers' SDPA with the mask it would build for `DynamicCache`, or a kernel without one.

    Without a mask, heads of queries that share keys and values get no copies of them.

    Args:
        module: The attention module that calls; its queries are those of the newest tokens.
        query: [1, H, T, D].
        key: [1, H_kv, E, D], E >= T.
        value: [1, H_kv, E, D_v].
        scaling: Factor on the logits.

    Returns:
        [1, T, H, D_v].
    """
    q_len, kv_len = query.shape[2], key.shape[2]
    if not 1 < q_len < kv_len:
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling)[0]
    output = attend_exactly(query, key, value, scaling)
    if output is not None:
        return output.transpose(1, 2)
    index = torch.arange(kv_len, device=query.device)
    mask = (index <= index[kv_len - q_len :, None])[None, None]
    return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling)[0]


def forward_options(model: PreTrainedModel, num_logits: int = 1) -> dict[str, int]:
    """Options of the model's forward that leave out the logits nobody reads: all but the last."""
    parameters = inspect.signature(model.forward).parameters
    return {"logits_to_keep": num_logits} if "logits_to_keep" in parameters else {}
