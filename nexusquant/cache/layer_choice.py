"""Which layers of a model are compressed, and which stay as transformers keeps them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from nexusquant.cache import hf_compat
from nexusquant.cache.layer import CompressedLayer
from nexusquant.cache.profile import ModelProfile, make_codecs
from nexusquant.config import CompressionConfig
from nexusquant.errors import UnsupportedModelError
from nexusquant.hf import attention_problem, causal_class
from nexusquant.lattice import Rotary


def supported_layers(
    config: PreTrainedConfig, model: PreTrainedModel | None = None
) -> list[hf_compat.CacheLayerMixin]:
    """The layers that transformers would cache, if a compressed cache can stand in for them.

    Args:
        config: Of the model, whose weights need not be there.
        model: The model if it is there; its class counts then, and not what the config says.

    Raises:
        UnsupportedModelError: It cannot; the message says why.
    """
    layers = _default_layers(config)
    if all(isinstance(layer, hf_compat.SlidingLayer) for layer in layers):
        raise UnsupportedModelError(
            "Every layer of this model attends to a sliding window only; its cache does not grow "
            "with the text and needs no compression."
        )
    problem = _attention_problem(config, model)
    if problem is not None:
        raise UnsupportedModelError(problem)
    return layers


def _default_layers(config: PreTrainedConfig) -> list[hf_compat.CacheLayerMixin]:
    try:
        return hf_compat.default_layers(config)
    except UnsupportedModelError:
        raise
    except Exception as error:
        # the config of a stranger in the hands of transformers: what it raises has no limits
        raise UnsupportedModelError(
            f"The layers that a model of type {config.model_type} caches cannot be told from its "
            f"config ({_first_line(error)})."
        ) from error


def _attention_problem(config: PreTrainedConfig, model: PreTrainedModel | None) -> str | None:
    if model is None and causal_class(config) is None:
        return (
            f"A model of type {config.model_type} does not write text: transformers has no causal "
            "language model of that type. Choose a model for text generation."
        )
    try:
        return attention_problem(config, None if model is None else type(model))
    except Exception as error:
        if model is not None:
            # it exists, so its config is right, and its first use will tell. Code that looks at
            # numbers need not be the model's own: a program may watch what goes into it
            return None
        if isinstance(error, NotImplementedError):
            return (
                f"A model of type {config.model_type} looks at its own numbers before it attends, "
                "so that nothing tells beforehand whether a compressed cache can serve it."
            )
        # the model's own code in the hands of a stranger's config: what it raises has no limits
        raise UnsupportedModelError(
            f"No model of type {config.model_type} can be made and tried with this config "
            f"({_first_line(error)})."
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def make_layers(
    model: PreTrainedModel,
    config: CompressionConfig,
    profile: ModelProfile | None,
    devices: Sequence[torch.device],
) -> tuple[list[hf_compat.CacheLayerMixin], Rotary | None]:
    """Make the cache layers of a model, and the rotation that their keys share.

    Args:
        model: The model.
        config: What to compress.
        profile: What is known of the model, or None.
        devices: Where each layer computes.

    Raises:
        UnsupportedModelError: The model cannot work with a compressed cache.
    """
    defaults = supported_layers(model.config, model)
    codecs, rotary = make_codecs(model, config.quant, profile, devices)
    layers = [
        layer if isinstance(layer, hf_compat.SlidingLayer) else CompressedLayer(config, codec)
        for layer, codec in zip(defaults, codecs, strict=True)
    ]
    return layers, rotary
