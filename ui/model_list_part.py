"""The list of models in Settings: its widgets and their wiring. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ui.model_list_handlers import AUTOMATIC, WEIGHTS, ChoiceView, ModelListHandlers
from ui.own_html import own_html
from ui.wiring import QUIET, Updates, returned


@dataclass(frozen=True)
class ModelListWidgets:
    """The list, what is said of the model chosen, and how it is to be fetched and held."""

    models: gr.Dropdown
    facts: gr.HTML
    weights: gr.Dropdown
    may_wait: gr.Checkbox
    token: gr.Textbox

    @property
    def how_to_load(self) -> tuple[gr.Component, ...]:
        """What Load takes besides the name, in the order of the handler's arguments."""
        return self.weights, self.token, self.may_wait


TOKEN_INFO = (
    "For models whose owner asks you to agree to conditions, and for private ones. Make one that "
    "may read at huggingface.co/settings/tokens. It is used for the next load and not kept."
)
WAITING_INFO = "Slow: those layers are copied to the GPU for every word of an answer."


def build_model_list(offload: bool = False) -> ModelListWidgets:
    """Lay the part out; the list is filled when the tab is opened.

    Args:
        offload: Whether layers may wait in the computer's memory, at the start.
    """
    models = gr.Dropdown([], value=None, label="Models to choose from", elem_id="set-model-list")
    facts = own_html("set-model-facts")
    weights = gr.Dropdown(
        list(WEIGHTS),
        value=AUTOMATIC,
        label="Weights",
        info="4 and 8 bits take less memory and cost a little quality.",
        elem_id="set-weights",
    )
    may_wait = gr.Checkbox(
        offload,
        label="Let layers that do not fit the GPU wait in the computer's memory",
        info=WAITING_INFO,
        elem_id="set-may-wait",
    )
    token = gr.Textbox(
        label="Hugging Face access token",
        type="password",
        info=TOKEN_INFO,
        max_lines=1,
        elem_id="set-token",
    )
    return ModelListWidgets(models, facts, weights, may_wait, token)


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
