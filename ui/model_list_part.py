"""The list of models in Settings: its widgets and their wiring. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.model_list_handlers import AUTOMATIC, WEIGHTS, ChoiceView, ModelListHandlers
from ui.own_html import own_html
from ui.wiring import QUIET, Updates, returned


@dataclass(frozen=True)
class ModelListWidgets:
    """The list, what is said of the model chosen, and what its weights are held in."""

    models: gr.Dropdown
    facts: gr.HTML
    weights: gr.Dropdown


def build_model_list() -> ModelListWidgets:
    """Lay the part out; the list is filled when the tab is opened."""
    models = gr.Dropdown([], value=None, label="Models to choose from", elem_id="set-model-list")
    facts = own_html("set-model-facts")
    weights = gr.Dropdown(
        list(WEIGHTS),
        value=AUTOMATIC,
        label="Weights",
        info="4 and 8 bits take less memory and cost a little quality.",
        elem_id="set-weights",
    )
    return ModelListWidgets(models, facts, weights)


def wire_model_list(
    w: ModelListWidgets, tab: gr.Tab, model_name: gr.Textbox, handlers: ModelListHandlers
) -> None:
    """Fill the list when `tab` is opened; a choice goes into `model_name`."""

    def filled(choices: list[tuple[str, str]]) -> Updates:
        return {w.models: gr.update(choices=choices)}

    def chosen(view: ChoiceView) -> Updates:
        return {model_name: view.name, w.weights: view.weights, w.facts: view.facts}

    tab.select(returned(handlers.choices, filled), None, w.models, **QUIET)
    w.models.input(
        returned(handlers.choose, chosen), w.models, [model_name, w.weights, w.facts], **QUIET
    )
