"""The choice of a preset with its honest sentence, the same on several tabs. Knows no engine."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from nexusquant.config import CompressionConfig
from ui.own_html import own_html
from ui.presenters import PRESET_LABELS, describe_config, escape, preset_name
from ui.wiring import Updates

CHOICES = [(label, name) for name, label in PRESET_LABELS.items()]
CUSTOM_NOTE = "Own values from Settings: "


@dataclass(frozen=True)
class PresetPicker:
    """A radio and the sentence under it."""

    radio: gr.Radio
    text: gr.HTML

    @property
    def outputs(self) -> list[gr.Component]:
        """What changes when a preset is chosen anywhere."""
        return [self.radio, self.text]

    def updates(self, config: CompressionConfig) -> Updates:
        """Show `config`; values of one's own leave all presets unchosen."""
        name = preset_name(config)
        text = ("" if name else CUSTOM_NOTE) + describe_config(config)
        return {
            self.radio: gr.update(value=name),
            self.text: f'<p class="nq-under">{escape(text)}</p>',
        }


def build_preset_picker(elem_id: str) -> PresetPicker:
    """Lay the picker out; the tab that shows it wires it."""
    with gr.Group(elem_classes="nq-group"):
        radio = gr.Radio(CHOICES, label="Compression of the KV cache", elem_id=elem_id)
        text = own_html(f"{elem_id}-text")
    return PresetPicker(radio, text)
