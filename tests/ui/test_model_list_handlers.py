"""The list of models in Settings: labels for this device, and a choice that fills the fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from fake_engine import FAKE_MODEL

from nexusquant.engine import FitLabel, MemoryReading, ModelOnDisk, fit_of, listed_models
from ui.model_list_handlers import WEIGHTS, ModelListHandlers, choice_label, facts
from ui.model_list_part import build_model_list
from ui.settings_handlers import SettingsHandlers

GIB = 2**30
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture
def free(engine, monkeypatch):
    """Set the bytes that are free; nothing is loaded that could be freed."""

    def set_free(gigabytes):
        reading = MemoryReading("card", 24 * GIB, gigabytes * GIB, 0)
        monkeypatch.setattr(engine, "memory", lambda: reading)
        engine.info = None

    return set_free


@pytest.fixture
def handlers(services):
    return ModelListHandlers(services)


def test_every_model_is_listed_and_those_that_fit_come_first(handlers, free):
    free(8)
    choices = handlers.choices()
    assert {model_id for _, model_id in choices} == {model.id for model in listed_models()}
    ends = [label.rsplit(", ", 1)[1] for label, _ in choices]
    order = list(dict.fromkeys(ends))
    assert order == [str(FitLabel.FITS), str(FitLabel.FITS_IN_4_BITS), str(FitLabel.DOES_NOT_FIT)]
    assert ends == sorted(ends, key=order.index)


def test_what_the_present_model_holds_counts_as_free(handlers, engine, free):
    free(4)
    assert "does not fit" in handlers.choose(LLAMA_8B).facts
    engine.info = replace(FAKE_MODEL, weight_bytes=20 * GIB)
    assert "Pages that fit" in handlers.choose(LLAMA_8B).facts


@pytest.mark.parametrize(("gigabytes", "weights"), [(24, "auto"), (8, "nf4"), (2, "auto")])
def test_a_choice_fills_in_the_name_and_the_weights_that_fit(handlers, free, gigabytes, weights):
    free(gigabytes)
    view = handlers.choose(LLAMA_8B)
    assert (view.name, view.weights) == (LLAMA_8B, weights)
    assert weights in dict(WEIGHTS).values()
    for part in ("Llama 3.1 Community License", "131,072 tokens", "8 heads", "agreement"):
        assert part in view.facts


def test_facts_name_the_pages_of_every_preset():
    model = next(m for m in listed_models() if m.id == "Qwen/Qwen3-0.6B")
    text = facts(fit_of(model, 8 * GIB))
    # its context holds fewer pages than the memory does
    assert "Safe 81, High 81" in text
    assert "agreement" not in text
    assert choice_label(fit_of(model, 8 * GIB)) == "Qwen3-0.6B: 0.6B, 1.5 GB to fetch, fits"


@pytest.mark.parametrize(("weights", "dtype"), [("auto", None), ("nf4", "nf4")])
def test_the_model_is_loaded_with_the_weights_chosen(
    services, engine, workspace, me, weights, dtype
):
    list(SettingsHandlers(services).load_model("some/model", workspace.id, me, weights))
    assert engine.loaded_dtype == dtype


def test_a_token_and_leave_to_wait_go_with_one_load_only(services, engine, workspace, me):
    handlers = SettingsHandlers(services)
    list(handlers.load_model("some/model", workspace.id, me, "auto", " hf_abc ", True))
    assert (engine.used_token, engine.may_offload) == ("hf_abc", True)
    list(handlers.load_model("other/model", workspace.id, me, "auto", "  ", False))
    assert (engine.used_token, engine.may_offload) == (None, False)


def test_models_on_this_disk_are_marked_and_others_of_them_come_first(handlers, engine, free):
    free(24)
    engine.on_disk = (
        ModelOnDisk("somebody/own", Path("own"), 2_100_000_000),
        ModelOnDisk(LLAMA_8B, Path("llama"), 16_000_000_000),
    )
    choices = handlers.choices()
    assert choices[0] == ("somebody/own: 2.10 GB, on this disk", "somebody/own")
    labels = {model_id: label for label, model_id in choices}
    assert labels[LLAMA_8B] == "Llama-3.1-8B-Instruct: 8.03B, on this disk, fits"
    assert sum("on this disk" in label for label in labels.values()) == 2
    view = handlers.choose("somebody/own")
    assert (view.name, view.weights, view.facts) == ("somebody/own", "auto", "")


def test_the_token_field_shows_nothing_and_says_what_it_is_for():
    with gr.Blocks():
        widgets = build_model_list(offload=True)
    assert widgets.token.type == "password"
    assert "not kept" in widgets.token.info
    assert widgets.may_wait.value is True
    assert widgets.how_to_load == (widgets.weights, widgets.token, widgets.may_wait)


def test_the_list_begins_empty_and_weights_automatic():
    with gr.Blocks():
        widgets = build_model_list()
    assert widgets.models.choices == []
    assert widgets.weights.value == "auto"
