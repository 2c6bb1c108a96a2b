"""One accent, neutral greys, the system's fonts. Knows Gradio's theme variables only."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO_FONTS = ("ui-monospace", "Cascadia Mono", "Consolas", "DejaVu Sans Mono", "monospace")


VARIABLES: Mapping[str, Any] = MappingProxyType(
    {
        "body_background_fill": "*neutral_50",
        "body_background_fill_dark": "*neutral_950",
        "body_text_color_subdued": "*neutral_600",
        "body_text_color_subdued_dark": "*neutral_400",
        "block_background_fill": "white",
        "block_background_fill_dark": "*neutral_900",
        "block_border_width": "1px",
        "block_border_color": "*neutral_200",
        "block_border_color_dark": "*neutral_800",
        "block_label_text_color": "*neutral_600",
        "block_label_text_color_dark": "*neutral_400",
        "block_title_text_color": "*neutral_700",
        "block_title_text_color_dark": "*neutral_300",
        "block_title_text_weight": "500",
        "input_background_fill": "white",
        "input_background_fill_dark": "*neutral_900",
        "input_border_color": "*neutral_300",
        "input_border_color_dark": "*neutral_700",
        "input_border_color_focus": "*primary_600",
        "input_border_color_focus_dark": "*primary_500",
        "input_border_width": "1px",
        "color_accent": "*primary_700",
        "input_placeholder_color": "*neutral_500",
        "input_placeholder_color_dark": "*neutral_400",
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_dark": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
        "button_primary_background_fill_hover_dark": "*primary_600",
        "button_primary_text_color": "white",
        "button_primary_text_color_dark": "white",
        "button_secondary_background_fill": "white",
        "button_secondary_background_fill_dark": "*neutral_800",
        "button_secondary_background_fill_hover": "*neutral_100",
        "button_secondary_background_fill_hover_dark": "*neutral_700",
        "button_secondary_border_color": "*neutral_300",
        "button_secondary_border_color_dark": "*neutral_700",
        "button_border_width": "1px",
        "shadow_drop": "none",
        "block_shadow": "none",
        "checkbox_background_color_selected": "*primary_700",
        "checkbox_background_color_selected_dark": "*primary_600",
        "checkbox_border_color_selected": "*primary_700",
        "checkbox_border_color_selected_dark": "*primary_600",
        "checkbox_label_background_fill_selected": "*primary_50",
        "checkbox_label_background_fill_selected_dark": "*neutral_800",
        "checkbox_label_border_color_selected": "*primary_700",
        "checkbox_label_border_color_selected_dark": "*primary_600",
        "slider_color": "*primary_700",
        "slider_color_dark": "*primary_600",
        "link_text_color": "*primary_700",
        "link_text_color_dark": "*primary_400",
    }
)
"""Colours and borders of light and dark; the rest is Gradio's base theme."""


def build_theme() -> gr.themes.Base:
    """Quiet on light and dark; nothing is fetched from anywhere."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.zinc,
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=list(FONTS),
        font_mono=list(MONO_FONTS),
    )
    return theme.set(**VARIABLES)
