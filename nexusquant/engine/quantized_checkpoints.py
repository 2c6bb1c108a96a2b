"""Checkpoints whose weights were quantized by others: AWQ, GPTQ, compressed-tensors, FP8 and more.

Transformers knows which of them it can load here; asked before the weights are fetched or read.
"""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

from nexusquant.errors import UnsupportedModelError

_UNQUANTIZED = (
    "Or choose the model that it was made from, whose weights can be held in 4 bits "
    "(--dtype nf4) here."
)


def check_quantizer(name: str, config: PreTrainedConfig, dtype: str) -> None:
    """Refuse a quantized checkpoint that transformers cannot load on this computer.

    Args:
        name: What the model is called.
        config: Its config; one without quantization passes.
        dtype: What its weights are to be held in, as `load_model` takes it.

    Raises:
        UnsupportedModelError: A package is missing, or this device is not served; which is said.
    """
    found, method = getattr(config, "quantization_config", None), quant_method(config)
    if found is None:
        return
    if dtype in ("int8", "nf4"):
        raise UnsupportedModelError(
            f"The weights of {name} are quantized already ({method}); load it with --dtype auto."
        )
    if isinstance(found, dict) and not AutoHfQuantizer.supports_quant_method(found):
        raise UnsupportedModelError(
            f"The weights of {name} are quantized by {method}, which transformers does not know. "
            f"{_UNQUANTIZED}"
        )
    try:
        quantizer = AutoHfQuantizer.from_config(found, pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
    except (ImportError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        raise UnsupportedModelError(
            f"The weights of {name} are quantized by {method}, which cannot be loaded here: {why}. "
            f"{_UNQUANTIZED}"
        ) from error


def quant_method(config: PreTrainedConfig) -> str | None:
    """How a checkpoint's weights were quantized, such as "awq"; None where they were not."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def quantizer_notes(method: str | None, model: PreTrainedModel) -> tuple[str, ...]:
    """Say that quantized weights had to be widened, if so.

    Args:
        method: How the checkpoint was quantized, if it was.
        model: As it was loaded.
    """
    # transformers lets go of the quantizer of weights that it has widened
    if method is None or getattr(model, "hf_quantizer", None) is not None:
        return ()
    return (
        f"This device cannot compute with {method} weights: they were widened to 16 bits, and take "
        "as much memory as such.",
    )
