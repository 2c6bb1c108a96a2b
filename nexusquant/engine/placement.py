"""Where a model's weights go: onto one card, over several, or partly into the computer's memory.

Knows what fits, told from the config. Must not know how weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from nexusquant.config import PRESETS
from nexusquant.engine.memory import MemoryReading
from nexusquant.engine.memory_plan import plan_memory
from nexusquant.engine.split_plan import Split, SplitPlan
from nexusquant.engine.weights import Precision, WeightParts, stored_precision, weight_parts
from nexusquant.errors import OutOfMemoryError

LEAST_USEFUL_TOKENS = 8192
"""A model fits if this much text, or its whole context, fits beside it without eviction."""

# of the bus between the computer's memory and a card, pageable memory taken into account
_BUS_BYTES_PER_S = 8e9


@dataclass(frozen=True)
class Card:
    """A GPU at one moment.

    Args:
        device: Which one.
        memory: Its memory.
    """

    device: torch.device
    memory: MemoryReading


@dataclass(frozen=True)
class Placement:
    """Where weights go.

    Args:
        device_map: For transformers: modules and their devices, or "auto".
        notes: What the user has to know of it, in sentences.
    """

    device_map: Mapping[str, torch.device | int | str] | str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    """A model that has to be placed."""

    name: str
    config: PreTrainedConfig
    precision: Precision
    cards: tuple[Card, ...]
    parts: WeightParts

    @property
    def free_bytes(self) -> tuple[int, ...]:
        return tuple(card.memory.usable_bytes for card in self.cards)

    @property
    def weight_bytes(self) -> int:
        return self.parts.total.num_bytes(self.precision)

    @property
    def roomiest(self) -> Card:
        return max(self.cards, key=lambda card: card.memory.usable_bytes)

    def split_plan(self) -> SplitPlan:
        return SplitPlan(self.config, PRESETS["safe"], self.precision, self.parts, self.free_bytes)


def place_weights(
    name: str,
    config: PreTrainedConfig,
    dtype: str,
    cards: Sequence[Card],
    *,
    offload: bool = False,
    free_ram_bytes: int = 0,
) -> Placement:
    """Choose devices for a model: one card if it and its whole context fit there, else several.

    Args:
        name: What the model is called.
        config: Its config.
        dtype: What its weights are to be held in, as `load_model` takes it.
        cards: The GPUs that may be used, one or more.
        offload: Let layers wait in the computer's memory if all cards together are too small.
        free_ram_bytes: Of the computer's memory.

    Raises:
        OutOfMemoryError: It does not fit; the numbers are named, and what would help.
    """
    if getattr(config, "quantization_config", None):
        # what its layers take is known once they are loaded
        return Placement("auto" if len(cards) > 1 else {"": cards[0].device})
    precision = stored_precision(config) if dtype == "auto" else Precision(dtype)
    task = _Task(name, config, precision, tuple(cards), weight_parts(config))
    placed = _on_cards(task)
    if placed is None and offload and not precision.is_quantized:
        placed = _partly_waiting(task, free_ram_bytes)
    if placed is None:
        raise OutOfMemoryError(_refusal(task, offload))
    return placed


def _on_cards(task: _Task) -> Placement | None:
    best = task.roomiest
    on_one = Placement({"": best.device})
    fits_one = task.weight_bytes <= best.memory.usable_bytes
    if len(task.cards) == 1 or not task.parts.layers:
        return on_one if fits_one else None
    plan = plan_memory(task.config, PRESETS["safe"], task.precision, weights=task.parts.total)
    alone = plan.tokens_that_fit(best.memory.usable_bytes)
    if alone >= _wanted_tokens(task.config, most=None):
        return on_one
    split = task.split_plan().best()
    if split is None or split.num_tokens <= alone:
        return on_one if fits_one else None
    return Placement(_device_map(task, split), (_where(task, split),))


def _partly_waiting(task: _Task, free_ram_bytes: int) -> Placement | None:
    wanted = _wanted_tokens(task.config, LEAST_USEFUL_TOKENS)
    split = task.split_plan().with_waiting(wanted) if task.parts.layers else None
    if split is None:
        return None
    waiting = sum(task.parts.num_layers[i].num_bytes(task.precision) for i in split.waiting)
    if waiting > free_ram_bytes:
        raise OutOfMemoryError(
            f"{task.name} does not fit: {waiting / 1e9:.1f} GB of it would have to wait in the "
            f"computer's memory, which has {free_ram_bytes / 1e9:.1f} GB free. Choose a smaller "
            "model, or --dtype nf4."
        )
    note = (
        f"{len(split.waiting)} of {len(task.parts.layers)} layers do not fit the GPU and wait in "
        f"the computer's memory: {waiting / 1e9:.1f} GB are copied to the GPU for every word of an "
        f"answer, which takes about {waiting / _BUS_BYTES_PER_S:.1f} s each time. A smaller model, "
        "or 4-bit weights, would answer many times faster."
    )
    return Placement(_device_map(task, split), (note,))


def _device_map(task: _Task, split: Split) -> dict[str, int | str]:
    # numbers: accelerate computes what waits on the first of a set of devices, which is the
    # lowest number then and would be any card else
    parts, numbers = task.parts, [card.device.index for card in task.cards]
    found: dict[str, int | str] = dict.fromkeys(parts.before, numbers[0])
    last = numbers[0]
    for number, layers in zip(numbers, split.layers, strict=True):
        for index in layers:
            found[parts.layers[index]] = last = number
    found |= dict.fromkeys((parts.layers[index] for index in split.waiting), "cpu")
    return found | dict.fromkeys(parts.after, last)


def _where(task: _Task, split: Split) -> str:
    held = [
        f"{layers.start + 1}-{layers.stop} on {card.memory.device_name} ({card.device})"
        for card, layers in zip(task.cards, split.layers, strict=True)
        if layers
    ]
    return f"The model is on several GPUs: layers {', '.join(held)}."


def _wanted_tokens(config: PreTrainedConfig, most: int | None) -> int:
    length = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return min(filter(None, (length, most)), default=LEAST_USEFUL_TOKENS)


def _refusal(task: _Task, offload: bool) -> str:
    free = " and ".join(
        f"{card.memory.usable_bytes / 1e9:.1f} GB of {card.memory.device_name}"
        for card in task.cards
    )
    allowed = any(card.memory.allowed_bytes is not None for card in task.cards)
    helps = ["choose a smaller model"]
    if task.precision is not Precision.NF4:
        helps.append("4-bit weights (--dtype nf4)")
    if not task.precision.is_quantized and not offload:
        helps.append("let what does not fit wait in the computer's memory, slowly (--offload)")
    if allowed:
        helps.append("let this program take more of the GPU (--gpu-share)")
    text = ", or ".join(helps)
    return (
        f"{task.name} takes {task.weight_bytes / 1e9:.1f} GB in {task.precision}, and {free} are "
        f"free. {text[0].upper()}{text[1:]}."
    )
