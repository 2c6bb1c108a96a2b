"""The Settings tab's handlers: values, their limits, and who may change the model."""

from __future__ import annotations

import gradio as gr
import pytest
from fake_engine import fake_report
from test_following import wait_for
from visitors import person

from nexusquant.config import PRESETS, SamplingParams, ScorerName
from ui.chat_handlers import ChatHandlers
from ui.settings_handlers import SettingsHandlers, config_view
from ui.settings_tab import SCORERS, build_settings_tab, compression_updates
from ui.state.fields import own_compression

SAMPLING = {
    "temperature": 0.3, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
    "max_new_tokens": 99, "seed": "7", "stop": "END\n\nSTOP",
}  # fmt: skip


@pytest.fixture
def handlers(services):
    return SettingsHandlers(services)


def set_sampling(handlers, workspace, me, **changes):
    return handlers.set_sampling(*(SAMPLING | changes).values(), workspace.id, me)


def test_a_preset_is_used_from_the_next_turn_on(handlers, workspace, services, me):
    view = handlers.choose_preset("max", workspace.id, me)
    assert view.config == PRESETS["max"]
    assert view.chat_status == ""
    list(ChatHandlers(services).send("hello", workspace.id, me))
    kept = PRESETS["max"].eviction.keep_ratio
    assert workspace.chat.turns()[0].usage.kept_share == pytest.approx(kept, abs=0.01)


def test_a_preset_changed_in_mid_chat_reads_everything_again_and_says_so(
    handlers, workspace, services, engine, me
):
    chat = ChatHandlers(services)
    list(chat.send("hello", workspace.id, me))
    view = handlers.choose_preset("off", workspace.id, me)
    assert "read again" in view.chat_status
    list(chat.send("go on", workspace.id, me))
    first, second = workspace.chat.turns()
    assert second.num_prompt_tokens > first.usage.num_seen_tokens
    assert second.usage.kept_share == 1.0
    # choosing what is in use already costs nothing
    assert handlers.choose_preset("off", workspace.id, me).chat_status == ""


def test_an_unsafe_preset_is_asked_about_and_not_used(handlers, workspace, engine, me):
    engine.report = fake_report()
    view = handlers.choose_preset("max", workspace.id, me)
    assert view.asked == "max"
    assert view.config is workspace.config is PRESETS["balanced"]
    # a page that is loaded again meanwhile is asked again
    assert config_view(handlers._services, workspace).asked == "max"


def test_an_unsafe_preset_is_used_after_a_yes(handlers, workspace, engine, me):
    engine.report = fake_report()
    handlers.choose_preset("max", workspace.id, me)
    view = handlers.use_anyway(workspace.id, me)
    assert (view.config, view.asked) == (PRESETS["max"], None)
    assert workspace.config is workspace.chat.config is PRESETS["max"]
    # what is in use is not asked about again
    assert handlers.choose_preset("max", workspace.id, me).asked is None


def test_keeping_the_preset_changes_nothing(handlers, workspace, engine, me):
    engine.report = fake_report()
    handlers.choose_preset("max", workspace.id, me)
    view = handlers.keep_current(workspace.id, me)
    assert (view.config, view.asked) == (PRESETS["balanced"], None)
    assert handlers.use_anyway(workspace.id, me).config is PRESETS["balanced"]


def test_choosing_something_safe_instead_answers_the_question(handlers, workspace, engine, me):
    engine.report = fake_report()
    handlers.choose_preset("max", workspace.id, me)
    view = handlers.choose_preset("high", workspace.id, me)
    assert (view.config, view.asked) == (PRESETS["high"], None)


@pytest.mark.parametrize("report", [None, fake_report(max=0.01)])
def test_a_question_is_forgotten_when_the_model_it_was_about_is_gone(
    handlers, services, workspace, engine, me, report
):
    engine.report = fake_report()
    handlers.choose_preset("max", workspace.id, me)
    engine.report = report
    assert config_view(services, workspace).asked is None


def test_a_preset_that_was_not_tested_is_used_at_once(handlers, workspace, engine, me):
    assert engine.report is None
    assert handlers.choose_preset("max", workspace.id, me).config == PRESETS["max"]


@pytest.mark.parametrize("bits", [(2.25, 1.5), (1, 4), (2.0, 2.0)])
def test_bits_of_ones_own_may_be_halves(handlers, workspace, me, bits):
    handlers.set_compression(*bits, 50, "snapkv", 20, 45, 8, 64, workspace.id, me)
    assert (workspace.config.quant.key_bits, workspace.config.quant.value_bits) == bits


def test_own_values_become_the_config(handlers, workspace, me):
    view = handlers.set_compression(4, 1, 50, "snapkv", 20, 45, 8, 64, workspace.id, me)
    config = workspace.config
    assert view.config is config
    assert (config.quant.key_bits, config.quant.value_bits) == (4, 1)
    assert config.eviction.keep_ratio == 0.5
    assert config.eviction.scorer is ScorerName.SNAPKV
    assert config.eviction.head_floor == 0.2
    assert config.eviction.newest_share == 0.45
    assert (config.num_sink_tokens, config.recent_window) == (8, 64)


@pytest.mark.parametrize("scorer", ScorerName)
def test_every_scorer_can_be_chosen_and_the_fields_give_back_the_config_they_show(scorer):
    assert scorer.value in [value for _, value in SCORERS]
    config = own_compression(2.0, 1.5, 40, scorer.value, 15, 35, 8, 64)
    with gr.Blocks():
        widgets = build_settings_tab(SamplingParams(), None)
    for shown in (config, PRESETS["high"], PRESETS["balanced"], PRESETS["max"]):
        updates = compression_updates(widgets, shown)
        assert own_compression(*(updates[field]["value"] for field in widgets.compression)) == shown


def test_keeping_everything_means_no_eviction(handlers, workspace, me):
    safe = PRESETS["safe"]
    bits = (safe.quant.key_bits, safe.quant.value_bits)
    exact = (safe.num_sink_tokens, safe.recent_window)
    handlers.set_compression(*bits, 100, "expected_attention", 30, 30, *exact, workspace.id, me)
    assert workspace.config == safe


@pytest.mark.parametrize("field", [0, 5, 6, 7])
def test_an_impossible_value_is_explained_and_changes_nothing(handlers, workspace, me, field):
    values = [2.0, 2.0, 50, "snapkv", 20, 30, 4, 32]
    values[field] = -1
    before = workspace.config
    view = handlers.set_compression(*values, workspace.id, me)
    assert view.config is None
    assert "nq-warn" in view.settings_status
    assert workspace.config is before


def test_an_empty_field_is_explained(handlers, workspace, me):
    view = handlers.set_compression(2, 2, 50, "snapkv", 20, 30, None, 32, workspace.id, me)
    assert "nq-warn" in view.settings_status
    assert "Top-k is missing; write a number." in set_sampling(handlers, workspace, me, top_k=None)


def test_sampling_values_reach_the_next_answer(handlers, workspace, me):
    assert "next answer" in set_sampling(handlers, workspace, me)
    assert workspace.sampling == SamplingParams(
        temperature=0.3, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1,
        max_new_tokens=99, seed=7, stop=("END", "STOP"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"min_p": 1.0}, "min_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": "seven"}, "seed"),
    ],
)
def test_sampling_outside_its_range_is_explained_and_changes_nothing(
    handlers, workspace, me, changes, word
):
    before = workspace.sampling
    assert word in set_sampling(handlers, workspace, me, **changes)
    assert workspace.sampling is before


def test_an_empty_seed_draws_a_new_one(handlers, workspace, me):
    set_sampling(handlers, workspace, me, seed=" ")
    assert workspace.sampling.seed is None


def test_settings_of_one_person_leave_others_alone(handlers, services, workspace, me):
    other = services.sessions.open(None, "bob")
    handlers.choose_preset("max", workspace.id, me)
    set_sampling(handlers, workspace, me)
    assert other.config == PRESETS["balanced"]
    assert other.sampling == SamplingParams()


def test_loading_a_model_shows_how_far_it_is(handlers, workspace, services, script, me):
    script.load_delay_s = 0.03
    views = list(handlers.load_model("some/model", workspace.id, me))
    assert any(view.line and "part " in view.line for view in views)
    assert views[0].is_loading
    assert views[-1].is_loading is False
    assert "ready" in views[-1].status
    assert services.engine.info.name == "some/model"


def test_a_model_that_cannot_be_loaded_is_explained(handlers, workspace, me):
    last = list(handlers.load_model("missing/model", workspace.id, me))[-1]
    assert "could not be loaded" in last.status
    assert "neither a folder nor a known model" in last.status


def test_a_second_load_waits_for_the_first(handlers, workspace, script, me):
    script.load_delay_s = 0.03
    stream = handlers.load_model("one/model", workspace.id, me)
    next(stream)
    assert "being loaded" in list(handlers.load_model("two/model", workspace.id, me))[-1].status
    list(stream)


def test_loading_can_be_stopped(handlers, workspace, services, script, me):
    script.load_delay_s = 0.05
    stream = handlers.load_model("one/model", workspace.id, me)
    next(stream)
    handlers.stop_loading(workspace.id, me)
    assert "stopped" in list(stream)[-1].status
    assert not services.models.is_loading


def test_a_guest_can_neither_load_nor_stop_a_model(handlers, services, script, me):
    script.load_delay_s = 0.05
    guest = person("bob", host="192.168.1.7")
    his = services.sessions.open(None, "bob")
    refused = list(handlers.load_model("some/model", his.id, guest))
    assert "Only the person at the computer" in refused[-1].status
    assert services.engine.info.name == "Scripted-1B"
    services.models.load("one/model")
    handlers.stop_loading(his.id, guest)
    wait_for(lambda: not services.models.is_loading)
    assert services.engine.info.name == "one/model"


def test_diagnostics_name_versions_and_device_and_nothing_that_was_written(
    handlers, services, workspace, me
):
    list(ChatHandlers(services).send("a private sentence", workspace.id, me))
    text = handlers.diagnostics(workspace.id, me)
    for part in ("torch: ", "transformers: ", "gradio: ", "python: ", "Test processor", "driver: "):
        assert part in text
    assert "private" not in text
