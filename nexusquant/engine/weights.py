"""How many bytes a model's weights take at each precision, told from its config.

Knows what quantizers of weights do to a linear layer. Must not know caches or texts. The model is
built without memory, so that parameters are counted as they are and not by a formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from nexusquant.errors import UnsupportedModelError

# NF4: a byte of scale for every 64 weights, and 4 bytes more for every 256 of those scales
_NF4_BLOCK, _NF4_NESTED_BLOCK = 64, 256


class Precision(str, Enum):
    """What weights are held in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    """Linear layers in 8 bits with a float32 scale for each output; all else in 16 bits."""
    NF4 = "nf4"
    """Linear layers in 4 bits with doubly quantized scales; all else in 16 bits."""

    def __str__(self) -> str:
        return self.value

    @property
    def value_bytes(self) -> int:
        """Bytes of a number that is computed with."""
        return 4 if self is Precision.FLOAT32 else 2

    @property
    def is_quantized(self) -> bool:
        """Whether linear layers are held in fewer bits than they are computed with."""
        return self in (Precision.INT8, Precision.NF4)

    def load_options(self) -> dict[str, object]:
        """What transformers' `from_pretrained` is to be told."""
        if not self.is_quantized:
            return {"dtype": getattr(torch, self.value)}
        return {"dtype": torch.bfloat16, "quantization_config": _bitsandbytes_config(self)}


def stored_precision(config: PreTrainedConfig) -> Precision:
    """What a checkpoint's weights are stored in; bfloat16 where its config does not say."""
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return Precision(stored) if stored in map(str, Precision) else Precision.BFLOAT16


def _bitsandbytes_config(precision: Precision) -> BitsAndBytesConfig:
    if precision is Precision.INT8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


@dataclass(frozen=True)
class WeightCount:
    """Numbers in the weights of a model; shared ones count once.

    Args:
        num_linear: Those that a quantizer of weights takes: in linear layers, but for the one
            that makes logits.
        num_rows: Outputs of these layers.
        num_others: Embeddings, logits, norms, biases, experts in one tensor.
    """

    num_linear: int
    num_rows: int
    num_others: int

    @property
    def num_parameters(self) -> int:
        """All of them."""
        return self.num_linear + self.num_others

    def num_bytes(self, precision: Precision) -> int:
        """Bytes in memory at a precision."""
        others = self.num_others * precision.value_bytes
        if precision is Precision.INT8:
            return self.num_linear + 4 * self.num_rows + others
        if precision is Precision.NF4:
            scales = self.num_linear / _NF4_BLOCK
            return round(self.num_linear / 2 + scales + 4 * scales / _NF4_NESTED_BLOCK) + others
        return self.num_linear * precision.value_bytes + others


@dataclass(frozen=True)
class WeightParts:
    """The weights of a model in the order in which a token goes through them.

    Args:
        before: Names of the modules before the layers, and of those that share weights with them.
        layers: Names of the layers.
        after: Names of the modules after them.
        num_before: Weights of `before`.
        num_layers: Weights of each layer.
        num_after: Weights of `after`.
    """

    before: tuple[str, ...]
    layers: tuple[str, ...]
    after: tuple[str, ...]
    num_before: WeightCount
    num_layers: tuple[WeightCount, ...]
    num_after: WeightCount

    @property
    def total(self) -> WeightCount:
        """All of them."""
        counts = (self.num_before, *self.num_layers, self.num_after)
        return WeightCount(
            sum(count.num_linear for count in counts),
            sum(count.num_rows for count in counts),
            sum(count.num_others for count in counts),
        )


def count_weights(config: PreTrainedConfig) -> WeightCount:
    """Count the weights of a model that need not be there.

    Args:
        config: Of the model.

    Raises:
        UnsupportedModelError: No causal model has such a config.
    """
    model = _without_memory(config)
    return _count([model], model.get_output_embeddings())


def weight_parts(config: PreTrainedConfig) -> WeightParts:
    """Tell apart what can be laid on different devices; no layers where they are not found.

    Args:
        config: Of the model.

    Raises:
        UnsupportedModelError: No causal model has such a config.
    """
    model = _without_memory(config)
    num_layers = config.get_text_config(decoder=True).num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    layers = next((found for found in lists if len(found) == num_layers), None)
    if layers is None:
        whole = _count([model], model.get_output_embeddings())
        return WeightParts(("",), (), (), whole, (), WeightCount(0, 0, 0))
    units = dict(_units(model, layers))
    names = list(units)
    first = next(i for i, name in enumerate(names) if units[name] is layers[0])
    embedding = set(model.get_input_embeddings().parameters())
    weights = {name: set(unit.parameters()) for name, unit in units.items()}
    before = {
        name
        for i, name in enumerate(names)
        if i < first or embedding & weights[name] or not weights[name]
    }
    last = first + num_layers
    after = tuple(name for name in names[last:] if name not in before)
    head = model.get_output_embeddings()
    return WeightParts(
        tuple(name for name in names if name in before),
        tuple(names[first:last]),
        after,
        _count([units[name] for name in names if name in before], head),
        tuple(_count([layer], head) for layer in layers),
        _count([units[name] for name in after], head),
    )


def _without_memory(config: PreTrainedConfig) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, ImportError) as error:
        raise UnsupportedModelError(f"This is no causal language model: {error}") from error


def _count(modules: Sequence[torch.nn.Module], head: torch.nn.Module | None) -> WeightCount:
    parameters = {p for module in modules for p in module.parameters()}
    linear = {
        layer.weight
        for module in modules
        for layer in module.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }
    num_linear = sum(weight.numel() for weight in linear)
    rows = sum(weight.shape[0] for weight in linear)
    return WeightCount(num_linear, rows, sum(p.numel() for p in parameters) - num_linear)


def _units(
    module: torch.nn.Module, layers: torch.nn.ModuleList, prefix: str = ""
) -> Iterator[tuple[str, torch.nn.Module]]:
    """The largest modules that hold no more than one of `layers`, in order."""
    for name, child in module.named_children():
        if child is layers or layers in child.modules():
            yield from _units(child, layers, f"{prefix}{name}.")
        elif module is layers or child not in layers.modules():
            yield f"{prefix}{name}", child
