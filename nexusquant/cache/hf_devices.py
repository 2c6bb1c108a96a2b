"""The part of `hf_compat` that knows where weights are: on one device, on several, or waiting.

Layers on several devices, and weights that wait in the computer's memory until they are computed
with, are the work of accelerate's hooks. Tested with transformers 5.17 and 5.23.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel


def layer_devices(model: PreTrainedModel) -> list[torch.device]:
    """Where each layer computes, and so where its keys and values are."""
    found: dict[int, torch.device] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and index not in found:
            device = _device_of(module)
            if device is not None:
                found[index] = device
    num_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    return [found.get(index, model.device) for index in range(num_layers)]


def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight once, also those that wait outside of the model."""
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if weight.is_meta:
            path, _, own_name = name.rpartition(".")
            weight = _waiting_weight(model.get_submodule(path), own_name)
        yield name, weight


def _device_of(module: torch.nn.Module) -> torch.device | None:
    """Where hooks have a module computed; without hooks, where its weights are."""
    for part in module.modules():
        for hook in _hooks_of(part):
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return _numbered(device)
    weight = next(module.parameters(), None)
    return None if weight is None else weight.device


def _numbered(name: torch.device | str | int) -> torch.device:
    """A device with its number: "cuda" is the current card, and 1 is another one."""
    device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _waiting_weight(module: torch.nn.Module, name: str) -> torch.Tensor:
    for hook in _hooks_of(module):
        waiting = getattr(hook, "weights_map", None)
        if waiting is not None:
            return waiting[name]
    raise KeyError(name)


def _hooks_of(module: torch.nn.Module) -> tuple[object, ...]:
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,))) if hook is not None else ()
