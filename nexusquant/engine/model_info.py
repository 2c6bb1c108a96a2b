"""A loaded model in figures. Knows no text and no cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from nexusquant.cache import head_dims, named_weights
from nexusquant.engine.model_loader import LoadedModel


@dataclass(frozen=True)
class ModelInfo:
    """The loaded model in figures.

    Args:
        name: As the user gave it.
        context_length: Most tokens it was made for.
        num_parameters: Weights, shared ones counted once.
        weight_bytes: Their bytes in memory.
        num_layers: Attention layers.
        num_kv_heads: Heads of keys and values in each.
        head_dim: Values of one key; the largest where layers differ.
        device: "cpu" or "cuda".
        weight_bytes_by_device: The same bytes by what torch calls each device, such as "cuda:0".
        device_name: As the driver calls it.
        dtype: Type of the weights, such as "float32".
        notes: What is not as it was asked for, in sentences.
    """

    name: str
    context_length: int
    num_parameters: int
    weight_bytes: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    device: str
    device_name: str
    dtype: str
    notes: tuple[str, ...] = ()
    weight_bytes_by_device: Mapping[str, int] = field(default_factory=dict)


def describe(name: str, loaded: LoadedModel) -> ModelInfo:
    """The figures of a model that was loaded as `name`."""
    model = loaded.model
    config = model.config.get_text_config(decoder=True)
    parameters = [weight for _, weight in named_weights(model)]
    by_device: Counter[str] = Counter()
    for parameter in model.parameters():
        by_device[str(parameter.device)] += parameter.nbytes
    heads = config.num_attention_heads
    return ModelInfo(
        name=name,
        context_length=loaded.context_length,
        num_parameters=sum(parameter.numel() for parameter in parameters),
        weight_bytes=sum(parameter.nbytes for parameter in parameters),
        num_layers=config.num_hidden_layers,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=max(head_dims(model.config)),
        device=loaded.device.type,
        device_name=loaded.memory().device_name,
        dtype=str(model.dtype).removeprefix("torch."),
        notes=loaded.notes,
        weight_bytes_by_device=dict(by_device),
    )
