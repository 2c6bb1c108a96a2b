"""How many bytes a model's weights take at each precision, told from its config.

Knows what quantizers of weights do to a linear layer. Must not know caches or texts. The model is
built without memory, so that parameters are counted as they are and not by a formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedConfig

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


def count_weights(config: PreTrainedConfig) -> WeightCount:
    """Count the weights of a model that need not be there.

    Args:
        config: Of the model.

    Raises:
        UnsupportedModelError: No causal model has such a config.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, ImportError) as error:
        raise UnsupportedModelError(f"This is no causal language model: {error}") from error
    head = model.get_output_embeddings()
    linear = {
        layer.weight
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }
    num_all = sum(parameter.numel() for parameter in model.parameters())
    num_linear = sum(weight.numel() for weight in linear)
    rows = sum(weight.shape[0] for weight in linear)
    return WeightCount(num_linear, rows, num_all - num_linear)
