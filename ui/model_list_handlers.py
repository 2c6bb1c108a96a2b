"""What the list of models says of this device. Knows the engine's list and HTML; no widget."""

from __future__ import annotations

from dataclasses import dataclass

from nexusquant.engine import (
    FitLabel,
    ListedModel,
    ModelFit,
    ModelOnDisk,
    fit_of,
    listed_models,
)
from ui.presenters import PRESET_LABELS, byte_size, count, escape
from ui.services import Services

AUTOMATIC = "auto"
WEIGHTS = (
    ("Automatic", AUTOMATIC),
    ("16 bits", "bfloat16"),
    ("8 bits", "int8"),
    ("4 bits", "nf4"),
)
"""What weights can be held in, as the page names it and as the engine does."""

ON_DISK = "on this disk"
_ORDER = (FitLabel.FITS, FitLabel.FITS_IN_4_BITS, FitLabel.DOES_NOT_FIT)
_GATES = {
    True: "Its owner asks for an account and an agreement on the model's page before it is "
    "fetched, and for an access token that says who fetches it.",
    None: "Its owner may ask for an account and an agreement first.",
    False: "",
}


@dataclass(frozen=True)
class ChoiceView:
    """A model of the list that was chosen.

    Args:
        name: What goes into the field of the model's name.
        weights: One of `WEIGHTS`.
        facts: What there is to know of it, as HTML.
    """

    name: str
    weights: str
    facts: str


class ModelListHandlers:
    """One method per event."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def choices(self) -> list[tuple[str, str]]:
        """Every model with its label for the memory of this moment, those that fit first.

        Models on this disk that are not in the list come before all.
        """
        there = {model.name: model for model in self._services.engine.models_on_disk()}
        fits = sorted(map(self._fit, listed_models()), key=lambda fit: _ORDER.index(fit.label))
        listed = [(choice_label(fit, fit.model.id in there), fit.model.id) for fit in fits]
        known = {model_id for _, model_id in listed}
        others = [(disk_label(model), name) for name, model in there.items() if name not in known]
        return others + listed

    def choose(self, model_id: str) -> ChoiceView:
        """Take a model of the list into the fields."""
        model = next((model for model in listed_models() if model.id == model_id), None)
        if model is None:
            return ChoiceView(model_id, AUTOMATIC, "")
        fit = self._fit(model)
        narrow = fit.label is FitLabel.FITS_IN_4_BITS
        return ChoiceView(model_id, "nf4" if narrow else AUTOMATIC, facts(fit))

    def _fit(self, model: ListedModel) -> ModelFit:
        engine = self._services.engine
        return fit_of(model, *engine.room_bytes(), on_gpu=engine.has_gpu)


def choice_label(fit: ModelFit, is_on_disk: bool = False) -> str:
    """One line: name, size, whether it fits."""
    model = fit.model
    size = ON_DISK if is_on_disk else f"{model.download_gb:g} GB to fetch"
    return f"{model.id.split('/')[1]}: {model.billion_parameters:g}B, {size}, {fit.label}"


def disk_label(model: ModelOnDisk) -> str:
    """One line for a model that is there and not in the list."""
    return f"{model.name}: {byte_size(model.num_bytes)}, {ON_DISK}"


def facts(fit: ModelFit) -> str:
    """Licence, context and how many pages each preset holds here."""
    model = fit.model
    lines = [
        f"{model.licence}. Context {count(model.context_length)} tokens, {model.num_kv_heads} "
        "heads of keys and values.",
        _GATES[model.is_gated],
    ]
    if fit.label is FitLabel.DOES_NOT_FIT:
        lines.append("It does not fit the memory that is free now.")
    else:
        pages = [f"{PRESET_LABELS[name]} {count(n)}" for name, n in fit.pages.items()]
        lines.append(f"Pages that fit beside it: {', '.join(pages)}.")
    return f"<p class='nq-under'>{escape(' '.join(filter(None, lines)))}</p>"
