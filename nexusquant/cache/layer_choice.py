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
from nexusquant.lattice import Rotary


def supported_layers(config: PreTrainedConfig) -> list[hf_compat.CacheLayerMixin]:
    """The layers that transformers would cache, if a compressed cache can stand in for them.

    Args:
        config: Of the model, whose weights need not be there.

    Raises:
        UnsupportedModelError: It cannot; the message says why.
    """
    layers = hf_compat.default_layers(config)
    if all(isinstance(layer, hf_compat.SlidingLayer) for layer in layers):
        raise UnsupportedModelError(
            "Every layer of this model attends to a sliding window only; its cache does not grow "
            "with the text and needs no compression."
        )
    return layers


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
    defaults = supported_layers(model.config)
    codecs, rotary = make_codecs(model, config.quant, profile, devices)
    layers = [
        layer if isinstance(layer, hf_compat.SlidingLayer) else CompressedLayer(config, codec)
        for layer, codec in zip(defaults, codecs, strict=True)
    ]
    return layers, rotary
