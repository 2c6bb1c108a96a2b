"""The part of `hf_compat` that knows gradients of what is cached: touches of transformers alone.

Tested with transformers 5.17 and 5.23.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from nexusquant.cache.hf_compat import plain_sdpa, plain_softcapped, select_attention

__all__ = ["checkpointed", "watched_past"]

_WATCHING = "nexusquant_watching"


@contextmanager
def watched_past(
    model: PreTrainedModel,
    num_past: int,
    on_keys: Callable[[int, torch.Tensor, torch.Tensor], None],
    on_values: Callable[[int, torch.Tensor, torch.Tensor], None],
) -> Iterator[None]:
    """Report what a text's first tokens hold, with the gradients that later queries give it.

    Nothing flows on from there: the first tokens are to the later ones what a cache would be.

    Args:
        model: Its attention is SDPA, or what caps logits, as long as this lasts.
        num_past: How many tokens are the first.
        on_keys: Called with the layer's index, the keys of all tokens [1, H_kv, T, D] and the
            gradients of the first ones' [1, H_kv, num_past, D].
        on_values: The same of values.
    """

    def past_of(held: torch.Tensor, layer: int, on_gradient: Callable) -> torch.Tensor:
        whole = held.detach()
        past = whole[:, :, :num_past].clone().requires_grad_(held.requires_grad)
        if past.requires_grad:
            past.register_hook(lambda gradient: on_gradient(layer, whole, gradient))
        return torch.cat([past, held[:, :, num_past:]], dim=2)

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *args: object,
        **options: object,
    ) -> tuple[torch.Tensor, None]:
        key = past_of(key, module.layer_idx, on_keys)
        value = past_of(value, module.layer_idx, on_values)
        plain = plain_sdpa if options.get("softcap") is None else plain_softcapped
        return plain(module, query, key, value, *args, **options)

    before = model.config._attn_implementation
    select_attention(model, _WATCHING, attend)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Let a backward pass compute each layer again instead of keeping what it needs of all."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers or not model.supports_gradient_checkpointing:
        yield
        return
    before = [layer.training for layer in layers]
    # called activation checkpointing from transformers 5.2x on
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    # only the layers' own flag: nothing inside them behaves as in training
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        getattr(model, f"{kind}_checkpointing_disable")()
        for layer, was_training in zip(layers, before, strict=True):
            layer.training = was_training
