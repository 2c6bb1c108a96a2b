"""The part of `hf_compat` that knows rotations: touches of transformers and nothing else.

Tested with transformers 5.17 and 5.23.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from nexusquant.cache import hf_compat


def rope_frequencies(model: PreTrainedModel) -> tuple[torch.Tensor, float] | None:
    """The angles per token that the model's full-attention layers rotate by right now.

    Scaling types that depend on the length change them during a text.

    Returns:
        Frequencies [rotary_dim / 2] in radians, float32, and the factor on cosines and sines;
        None for a model without rotary embeddings.
    """
    rotary = getattr(model.get_decoder(), "rotary_emb", None)
    for prefix in ("", "full_attention_"):
        frequencies = getattr(rotary, f"{prefix}inv_freq", None)
        if isinstance(frequencies, torch.Tensor):
            scaling = getattr(rotary, f"{prefix}attention_scaling", 1.0)
            return _kept(rotary, prefix, frequencies), float(scaling)
    return None


def _kept(rotary: torch.nn.Module, prefix: str, frequencies: torch.Tensor) -> torch.Tensor:
    """The tensor that will still hold these frequencies later: longrope writes over its own."""
    if "longrope" not in str(getattr(rotary, "rope_type", "")):
        return frequencies
    sets = (getattr(rotary, f"{prefix}{name}_inv_freq", None) for name in ("original", "long"))
    known = [one for one in sets if isinstance(one, torch.Tensor)]
    equal = [one for one in known if torch.equal(one.to(frequencies.device), frequencies)]
    return equal[0] if equal else frequencies.clone()


def rope_parameters(config: PreTrainedConfig) -> dict | None:
    """Type and numbers of the rotation in full-attention layers; None without one."""
    parameters = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    parameters = parameters.get("full_attention") or parameters
    return parameters if "rope_theta" in parameters else None


def scaled_frequencies(
    model: PreTrainedModel, rope_type: str, factor: float
) -> tuple[torch.Tensor, float]:
    """What transformers would have the full-attention layers rotate by, were they scaled so.

    Args:
        model: With rotary embeddings that are not scaled.
        rope_type: A name of `ROPE_INIT_FUNCTIONS`, such as "yarn" or "dynamic".
        factor: Times the trained length.

    Returns:
        Like `rope_frequencies`; for "dynamic" those of the longest text.
    """
    config = copy.deepcopy(model.config.get_text_config(decoder=True))
    trained, parameters = config.max_position_embeddings, rope_parameters(config)
    if rope_type == "dynamic":
        # its growth comes from the length, and its factor would be on top
        parameters.update(rope_type=rope_type, factor=1.0)
    else:
        parameters.update(
            rope_type=rope_type, factor=factor, original_max_position_embeddings=trained
        )
    if getattr(config, "head_dim", 0) is None:
        # transformers asks whether it is there, not whether it is set
        config.head_dim = hf_compat.head_dims(config)[0]
    options = {"layer_type": "full_attention"} if "full_attention" in config.rope_parameters else {}
    compute = ROPE_INIT_FUNCTIONS[rope_type]
    length = round(factor * trained)
    frequencies, amplitude = compute(config, model.device, seq_len=length, **options)
    return frequencies.to(model.device), float(amplitude)


@contextmanager
def rotating_by(
    model: PreTrainedModel, frequencies: torch.Tensor, amplitude: float
) -> Iterator[None]:
    """Have the full-attention layers rotate by `frequencies` inside `with`.

    Args:
        model: Changed in place, and back again.
        frequencies: Radians per token. [rotary_dim / 2], float32.
        amplitude: Factor on cosines and sines.
    """
    rotary = model.get_decoder().rotary_emb
    prefix = "" if hasattr(rotary, "inv_freq") else "full_attention_"
    new = {f"{prefix}inv_freq": frequencies, f"{prefix}attention_scaling": amplitude}
    before = {name: getattr(rotary, name) for name in new}
    try:
        for name, value in new.items():
            setattr(rotary, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(rotary, name, value)
