"""The Settings tab: its widgets, and which handler each of them calls. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from nexusquant.chat_config import CHAT_WINDOW
from nexusquant.config import (
    CompressionConfig,
    EvictionConfig,
    QuantConfig,
    SamplingParams,
    ScorerName,
)
from ui.conversation_widgets import build_main_button, build_stop_button
from ui.login_part import LoginWidgets, build_login_part
from ui.model_list_part import ModelListWidgets, build_model_list
from ui.own_html import heading, own_html
from ui.preset_picker import PresetPicker, build_preset_picker
from ui.self_test_part import SelfTestWidgets, build_self_test_part
from ui.settings_handlers import ModelView, SettingsHandlers
from ui.wiring import AT_ONCE, POLLING, QUIET, Updates, changes, returned, show_while, streamed

MODEL_NOTE = (
    "<p class='nq-under'>Empty: the small model that comes with Nexusquant. Models from the web "
    "are fetched once; only safetensors weights are opened and no code of a model is run. "
    "Loading another model ends the chats' caches, not their messages.</p>"
)
BIT_CHOICES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
SCORERS = [(name.label, name.value) for name in ScorerName]


@dataclass(frozen=True)
class SettingsWidgets:
    """Everything in the tab that changes or is pressed."""

    model_part: gr.Column
    model_name: gr.Textbox
    load: gr.Button
    stop_load: gr.Button
    model_status: gr.HTML
    model_list: ModelListWidgets
    picker: PresetPicker
    compression: tuple[Any, ...]
    compression_status: gr.HTML
    self_test: SelfTestWidgets
    sampling: tuple[Any, ...]
    sampling_status: gr.HTML
    diagnostics: gr.Textbox
    login: LoginWidgets


def build_settings_tab(
    sampling: SamplingParams, model_name: str | None, *, offload: bool = False
) -> SettingsWidgets:
    """Lay the tab out; nothing is wired yet."""
    with gr.Row(elem_classes="nq-columns"):
        with gr.Column(min_width=320, elem_classes="nq-main"):
            model = _build_model(model_name, offload)
            sampling_fields = _build_sampling(sampling)
            sampling_status = own_html("set-sampling-status")
        with gr.Column(min_width=320, elem_classes="nq-main"):
            heading("Compression")
            picker = build_preset_picker("set-preset")
            compression = _build_compression()
            compression_status = own_html("set-compression-status")
            self_test = build_self_test_part()
            heading("Diagnostics")
            diagnostics = gr.Textbox(
                label="Versions and devices; nothing that you wrote",
                lines=8,
                max_lines=14,
                interactive=False,
                buttons=["copy"],
                elem_id="set-diagnostics",
            )
            login = build_login_part()
    return SettingsWidgets(
        **model,
        picker=picker,
        compression=compression,
        compression_status=compression_status,
        self_test=self_test,
        sampling=sampling_fields,
        sampling_status=sampling_status,
        diagnostics=diagnostics,
        login=login,
    )


def _build_model(model_name: str | None, offload: bool) -> dict[str, Any]:
    with gr.Column(visible=False, elem_classes="nq-main") as part:
        heading("Model")
        with gr.Row(elem_classes="nq-ask"):
            name = gr.Textbox(
                model_name or "",
                label="Hugging Face name or folder",
                elem_id="set-model",
                placeholder="HuggingFaceTB/SmolLM2-360M-Instruct",
                scale=6,
                min_width=180,
            )
            load = build_main_button("Load", "set-load")
            stop = build_stop_button("set-stop-load")
        model_list = build_model_list(offload)
        own_html("set-model-note", value=MODEL_NOTE)
        status = own_html("set-model-status")
    return {
        "model_part": part,
        "model_name": name,
        "load": load,
        "stop_load": stop,
        "model_status": status,
        "model_list": model_list,
    }


def _build_compression() -> tuple[gr.Component, ...]:
    with gr.Accordion("Values of your own", open=False, elem_id="set-advanced"):
        with gr.Row():
            key_bits = gr.Dropdown(_bit_choices(2.0), label="Key bits, mean", min_width=120)
            value_bits = gr.Dropdown(_bit_choices(2.0), label="Value bits, mean", min_width=120)
        keep = gr.Slider(
            5, 100, step=0.1, label="Kept of a long text's codes, %", elem_id="set-keep"
        )
        scorer = gr.Dropdown(
            SCORERS,
            label="Who chooses what is kept",
            info="Reconstruction reads the text twice: slower to begin, best for facts.",
            elem_id="set-scorer",
        )
        floor = gr.Slider(0, 100, step=5, label="Floor: share every head is sure of, %")
        newest = gr.Slider(
            0,
            100,
            step=5,
            label="Share kept for the newest tokens, %",
            info="This much of what is kept goes to the end of the text; the rest is chosen.",
            elem_id="set-newest",
        )
        with gr.Row():
            sinks = gr.Number(
                label="First tokens kept exactly", precision=0, minimum=0, min_width=120
            )
            window = gr.Number(
                label=f"Newest tokens kept exactly, in a chat {CHAT_WINDOW} at least",
                precision=0,
                minimum=0,
                min_width=120,
            )
    return key_bits, value_bits, keep, scorer, floor, newest, sinks, window


def _build_sampling(start: SamplingParams) -> tuple[gr.Component, ...]:
    heading("Answers")
    temperature = gr.Slider(
        0,
        2,
        start.temperature,
        step=0.05,
        elem_id="set-temperature",
        label="Temperature (0 takes the likeliest word)",
    )
    top_p = gr.Slider(0.05, 1, start.top_p, step=0.01, label="Top-p")
    with gr.Row():
        top_k = gr.Number(start.top_k, label="Top-k (0: all)", precision=0, min_width=120)
        min_p = gr.Number(start.min_p, label="Min-p", step=0.01, min_width=120)
    with gr.Row():
        penalty = gr.Number(
            start.repetition_penalty, label="Repetition penalty", step=0.05, min_width=120
        )
        longest = gr.Number(
            start.max_new_tokens,
            label="Longest answer, tokens",
            precision=0,
            elem_id="set-longest",
            min_width=120,
        )
    seed = gr.Textbox(
        "" if start.seed is None else str(start.seed),
        label="Seed (empty: a new one)",
        max_lines=1,
        elem_id="set-seed",
    )
    stop = gr.Textbox(
        "\n".join(start.stop), label="Texts that end an answer, one per line", lines=2
    )
    return temperature, top_p, top_k, min_p, penalty, longest, seed, stop


def wire_settings_tab(
    w: SettingsWidgets, handlers: SettingsHandlers, workspace_id: gr.State, line: gr.HTML
) -> None:
    """Connect model, sampling and diagnostics; compression is wired with the pickers."""

    def updates(view: ModelView) -> Updates:
        return _model_updates(w, line, view)

    outputs = [w.model_status, w.load, w.stop_load, w.model_list.token, line]
    gr.on(
        [w.load.click, w.model_name.submit],
        streamed(handlers.load_model, updates),
        [w.model_name, workspace_id, *w.model_list.how_to_load],
        outputs,
        **POLLING,
    )
    w.stop_load.click(returned(handlers.stop_loading, updates), workspace_id, outputs, **AT_ONCE)
    gr.on(
        [field.input for field in w.sampling],
        returned(handlers.set_sampling, lambda text: {w.sampling_status: text}),
        [*w.sampling, workspace_id],
        w.sampling_status,
        trigger_mode="always_last",
        **QUIET,
    )


def compression_updates(w: SettingsWidgets, config: CompressionConfig) -> Updates:
    """Show `config` in the fields of one's own values; they rest while the preset is Off."""
    quant = config.quant or QuantConfig()
    eviction = config.eviction or EvictionConfig(keep_ratio=1.0)
    bits = (quant.key_bits, quant.value_bits)
    values = (
        round(eviction.keep_ratio * 100, 1),
        eviction.scorer.value,
        round(eviction.head_floor * 100),
        round(eviction.newest_share * 100),
        config.num_sink_tokens,
        config.recent_window,
    )
    can_edit = not config.is_off
    updates: Updates = {
        field: gr.update(choices=_bit_choices(value), value=value, interactive=can_edit)
        for field, value in zip(w.compression[:2], bits, strict=True)
    }
    updates |= {
        field: gr.update(value=value, interactive=can_edit)
        for field, value in zip(w.compression[2:], values, strict=True)
    }
    return updates


def _bit_choices(in_use: float) -> list[tuple[str, float]]:
    """Bits to choose from; a preset may use a number between them."""
    return [(f"{bits:g}", bits) for bits in sorted({*BIT_CHOICES, float(in_use)})]


def _model_updates(w: SettingsWidgets, line: gr.HTML, view: ModelView) -> Updates:
    is_idle = None if view.is_loading is None else not view.is_loading
    return changes(
        (w.model_status, view.status),
        (line, view.line),
        (w.load, show_while(is_idle, value="Load")),
        (w.stop_load, show_while(view.is_loading, value="Stop")),
        # taken for this load; it is not kept, on the page either
        (w.model_list.token, "" if view.is_loading else None),
    )
