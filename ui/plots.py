"""Charts of memory, readable on light and dark. Knows figures of turns; no widget."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from nexusquant.engine import GenerationStats
from ui.presenters import byte_size, percent

STORED_COLOUR = "#0d9488"
PLAIN_COLOUR = "#9aa3ad"
INK = "#7b8794"
"""Grey with enough contrast on both backgrounds."""
GRID = "rgba(128, 140, 152, 0.25)"


def memory_per_turn(turns: Sequence[GenerationStats]) -> go.Figure:
    """A pair of bars per turn: KV bytes stored, and what 16 bits would take."""
    unit, name = _unit(max((turn.usage.uncompressed_bytes for turn in turns), default=0))
    numbers = [str(number) for number in range(1, len(turns) + 1)]
    figure = go.Figure()
    for label, colour, sizes in (
        ("stored", STORED_COLOUR, [turn.usage.stored_bytes for turn in turns]),
        ("in 16 bits", PLAIN_COLOUR, [turn.usage.uncompressed_bytes for turn in turns]),
    ):
        figure.add_bar(
            x=numbers,
            y=[size / unit for size in sizes],
            name=label,
            marker_color=colour,
            text=[_hover(turn, size) for turn, size in zip(turns, sizes, strict=True)],
            textposition="none",
            hovertemplate="turn %{x}, " + label + "<br>%{text}<extra></extra>",
        )
    return _quiet(figure, f"KV memory, {name}")


def _unit(largest: int) -> tuple[float, str]:
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if largest >= size:
            return size, name
    return 1.0, "bytes"


def _hover(turn: GenerationStats, size: int) -> str:
    evicted = 1 - turn.usage.kept_share
    return f"{byte_size(size)}<br>{turn.usage.num_seen_tokens:,} tokens, {percent(evicted)} evicted"


def _quiet(figure: go.Figure, title: str) -> go.Figure:
    figure.update_layout(
        height=230,
        margin={"l": 44, "r": 8, "t": 8, "b": 34},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 12, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        bargap=0.35,
        template="none",
    )
    figure.update_xaxes(title="turn", type="category", showgrid=False, linecolor=GRID)
    figure.update_yaxes(title=title, gridcolor=GRID, zerolinecolor=GRID, rangemode="tozero")
    return figure
