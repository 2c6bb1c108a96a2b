"""A short list of models to choose from, each with what it would hold on this device.

The facts stand in `models.json`; a test holds them to the sizes that they imply. Any other name or
folder works too. Knows the memory plan. Must not know how models are fetched or loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from nexusquant.config import PRESETS, CompressionConfig
from nexusquant.engine.memory_plan import plan_memory
from nexusquant.engine.placement import LEAST_USEFUL_TOKENS
from nexusquant.engine.split_plan import SplitPlan
from nexusquant.engine.weights import Precision, WeightParts, weight_parts

MODELS_FILE = Path(__file__).parent / "models.json"
TOKENS_PER_PAGE = 500


class FitLabel(str, Enum):
    """Whether a model fits a device."""

    FITS = "fits"
    FITS_IN_4_BITS = "fits with 4-bit weights"
    DOES_NOT_FIT = "does not fit"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class ListedModel:
    """A model of the list.

    Args:
        id: Hugging Face id.
        family: Whose it is, in one word.
        licence: Its name.
        is_gated: Whether an account has to accept conditions first; None where that has changed.
        billion_parameters: Weights, shared ones counted once.
        download_gb: Size of its files, in 10^9 bytes.
        sizes: What a config of transformers is made of.
    """

    id: str
    family: str
    licence: str
    is_gated: bool | None
    billion_parameters: float
    download_gb: float
    sizes: Mapping[str, object]

    @property
    def context_length(self) -> int:
        """Tokens that it was made for."""
        return self.sizes["max_position_embeddings"]

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values in each layer."""
        return self.sizes["num_key_value_heads"]

    def config(self) -> PreTrainedConfig:
        """Its config, as far as sizes go; nothing is fetched."""
        sizes = dict(self.sizes)
        return AutoConfig.for_model(sizes.pop("model_type"), **sizes)


@dataclass(frozen=True)
class ModelFit:
    """A listed model on one device.

    Args:
        model: The model.
        label: Whether it fits.
        precision: What its weights would be held in; None where it does not fit.
        tokens: Tokens of one text that fit, by preset; at most its context.
    """

    model: ListedModel
    label: FitLabel
    precision: Precision | None
    tokens: Mapping[str, int]

    @property
    def pages(self) -> dict[str, int]:
        """Pages of a book that fit, by preset."""
        return {preset: tokens // TOKENS_PER_PAGE for preset, tokens in self.tokens.items()}


@lru_cache(maxsize=1)
def listed_models() -> tuple[ListedModel, ...]:
    """The models of the list, by family and then by size."""
    records = json.loads(MODELS_FILE.read_text(encoding="utf-8"))["models"]
    models = (ListedModel(sizes=record.pop("config"), **record) for record in records)
    return tuple(sorted(models, key=lambda model: (model.family, model.billion_parameters)))


def fit_of(model: ListedModel, *free_bytes: int, on_gpu: bool = True) -> ModelFit:
    """Tell whether a model fits, and how much text beside it.

    Args:
        model: One of `listed_models`.
        free_bytes: Free on each device before the model is loaded.
        on_gpu: False plans for a CPU, which holds weights in float32.
    """
    labels = {Precision.BFLOAT16: FitLabel.FITS, Precision.NF4: FitLabel.FITS_IN_4_BITS}
    if not on_gpu:
        labels = {Precision.FLOAT32: FitLabel.FITS}
    needed, config = min(LEAST_USEFUL_TOKENS, model.context_length), model.config()
    for precision, label in labels.items():
        tokens = {
            name: _tokens_that_fit(model, config, compression, precision, free_bytes, on_gpu)
            for name, compression in PRESETS.items()
        }
        if tokens["safe"] >= needed:
            return ModelFit(model, label, precision, tokens)
    return ModelFit(model, FitLabel.DOES_NOT_FIT, None, dict.fromkeys(PRESETS, 0))


def _tokens_that_fit(
    model: ListedModel,
    config: PreTrainedConfig,
    compression: CompressionConfig,
    precision: Precision,
    free_bytes: tuple[int, ...],
    on_gpu: bool,
) -> int:
    parts = _parts_of(model.id)
    plan = plan_memory(config, compression, precision, on_gpu=on_gpu, weights=parts.total)
    tokens = plan.tokens_that_fit(max(free_bytes))
    if len(free_bytes) > 1 and tokens < model.context_length:
        split = SplitPlan(config, compression, precision, parts, free_bytes).best()
        tokens = max(tokens, split.num_tokens if split else 0)
    return min(tokens, model.context_length)


@lru_cache(maxsize=64)
def _parts_of(model_id: str) -> WeightParts:
    return weight_parts(next(m for m in listed_models() if m.id == model_id).config())
