"""The choice of a preset with its honest sentence, the same on several tabs. Knows no engine.

An unsafe preset is not taken at once: a question with two buttons appears under the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from nexusquant.config import CompressionConfig
from nexusquant.engine import SelfTestReport
from ui.own_html import own_html
from ui.presenters import PRESET_LABELS, preset_name
from ui.preset_figures import ask_about, keep_label, picker_label, picker_text
from ui.wiring import Updates, show_while

CHOICES = [(label, name) for name, label in PRESET_LABELS.items()]


@dataclass(frozen=True)
class PresetPicker:
    """A radio, the sentence under it, and the question before an unsafe preset is used."""

    radio: gr.Radio
    text: gr.HTML
    ask_part: gr.Column
    question: gr.HTML
    anyway: gr.Button
    keep: gr.Button

    @property
    def outputs(self) -> list[gr.blocks.Block]:
        """What changes when a preset is chosen anywhere."""
        return [self.radio, self.text, self.ask_part, self.question, self.anyway, self.keep]

    def updates(
        self, config: CompressionConfig, report: SelfTestReport | None, asked: str | None
    ) -> Updates:
        """Show what is in use, and the question if there is one.

        Args:
            config: In use; values of one's own leave all presets unchosen.
            report: What the presets do to this model, if that is known.
            asked: The unsafe preset that waits for a yes.
        """
        choices = [(picker_label(name, report), name) for name in PRESET_LABELS]
        anyway = f"Use {PRESET_LABELS[asked]} anyway" if asked else ""
        return {
            self.radio: gr.update(choices=choices, value=preset_name(config)),
            self.text: picker_text(config, report),
            self.ask_part: gr.update(visible=asked is not None),
            self.question: ask_about(asked, report),
            self.anyway: show_while(asked is not None, value=anyway),
            self.keep: show_while(asked is not None, value=keep_label(config)),
        }


def build_preset_picker(elem_id: str) -> PresetPicker:
    """Lay the picker out; the tab that shows it wires it."""
    with gr.Group(elem_classes="nq-group"):
        radio = gr.Radio(CHOICES, label="Compression of the KV cache", elem_id=elem_id)
        text = own_html(f"{elem_id}-text")
    with gr.Column(visible=False, elem_id=f"{elem_id}-ask", elem_classes="nq-sure") as part:
        question = own_html(f"{elem_id}-question")
        with gr.Row(elem_classes="nq-minor"):
            anyway = gr.Button("", size="sm", elem_id=f"{elem_id}-anyway", min_width=160)
            keep = gr.Button("", size="sm", elem_id=f"{elem_id}-keep", min_width=130)
    return PresetPicker(radio, text, part, question, anyway, keep)
