"""Draw what `recall.py` and `recall_chat.py` measured: recall against size, one line for each rule.

Needs playwright and a Chromium that is installed.

    python benchmarks/plot_recall.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plot_fidelity import ROOT, log_range, save_image
from plotly.subplots import make_subplots

RESULTS = ROOT / "benchmarks" / "results"
MOST_COLUMNS = 4
# colours and symbols of one rule in every panel; ours is drawn last, on top of the others
STYLES = {
    "random": ("#94a3b8", "x", 2, "Random"),
    "streaming": ("#a16207", "triangle-down", 2, "Newest tokens"),
    "expected_attention": ("#7c3aed", "triangle-up", 2, "Expected attention"),
    "snapkv": ("#2563eb", "square", 2, "SnapKV"),
    "reconstruction": ("#c2410c", "circle", 4, "Nexusquant: second reading"),
}
FACTOR_TICKS = (5, 7, 10, 17, 33)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--results", type=Path, action="append", help="recall.json and recall_chat.json")
    add("--image", type=Path, default=ROOT / "docs" / "images" / "recall.png")
    options = parser.parse_args()
    paths = options.results or [RESULTS / "recall.json", RESULTS / "recall_chat.json"]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    save_image(figure(results), options.image)


def figure(results: Sequence[Mapping]) -> go.Figure:
    """A panel for each task."""
    rows = [row for result in results for row in result["summary"]]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    num_columns = min(MOST_COLUMNS, len(tasks))
    num_rows = -(-len(tasks) // num_columns)
    most = {row["task"]: row for row in sorted(rows, key=lambda row: row["num_questions"])}
    titles = [
        f"{task}, {most[task]['num_questions']} {most[task].get('unit', 'questions')}"
        for task in tasks
    ]
    chart = make_subplots(
        rows=num_rows,
        cols=num_columns,
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.16,
    )
    shown: set[str] = set()
    for number, task in enumerate(tasks):
        place = {"row": number // num_columns + 1, "col": number % num_columns + 1}
        for rule in STYLES:
            line = [r for r in rows if r["task"] == task and r["method"].startswith(f"{rule} ")]
            if line:
                chart.add_trace(_trace(rule, line, is_named=rule not in shown), **place)
                shown.add(rule)
    _lay_out(chart, results[0]["model"], num_rows, rows)
    return chart


def _trace(rule: str, line: Sequence[Mapping], *, is_named: bool) -> go.Scatter:
    colour, symbol, width, name = STYLES[rule]
    points = sorted(line, key=lambda row: row["least_factor"])
    return go.Scatter(
        x=[row["least_factor"] for row in points],
        y=[row["recall"] for row in points],
        error_y={
            "array": [row["high"] - row["recall"] for row in points],
            "arrayminus": [row["recall"] - row["low"] for row in points],
            "width": 3,
            "thickness": 1.5,
        },
        mode="lines+markers",
        name=name,
        legendgroup=rule,
        showlegend=is_named,
        line={"color": colour, "width": width},
        marker={"color": colour, "symbol": symbol, "size": 6 + width},
    )


def _lay_out(chart: go.Figure, model: str, num_rows: int, rows: Sequence[Mapping]) -> None:
    subtitle = (
        f"{model}: share of what it finds uncompressed. Every rule has the same bytes, and no rule "
        "knew the questions. 95 % intervals."
    )
    chart.update_layout(
        title={"text": "What is still found, by size", "x": 0.05, "y": 0.965, "yanchor": "top"},
        title_subtitle={"text": subtitle, "font": {"size": 14, "color": "#475569"}},
        template="plotly_white",
        font={"family": "Liberation Sans, Arial, sans-serif", "size": 15, "color": "#0f172a"},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "yref": "container", "y": 0.01},
        legend_traceorder="reversed",
        width=1200,
        height=190 + 320 * num_rows,
        margin={"l": 70, "r": 30, "t": 130, "b": 110},
    )
    chart.update_xaxes(
        type="log",
        tickvals=FACTOR_TICKS,
        ticktext=[f"{factor}×" for factor in FACTOR_TICKS],
        tickangle=0,
        range=log_range([row["least_factor"] for row in rows]),
    )
    highest = max(1.05, *(row["high"] for row in rows))
    chart.update_yaxes(range=[-0.03, highest + 0.03], dtick=0.2)
    chart.update_yaxes(title="Recall", col=1)


if __name__ == "__main__":
    main()
