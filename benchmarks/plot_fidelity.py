"""Draw what `fidelity.py` measured: divergence against size, ours and the peers'.

Also prints, at equal size, how many times less our cache diverges than the best of the peers.
Needs playwright and a Chromium that is installed.

    python benchmarks/plot_fidelity.py [--factors 4.5 6.8 9]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
OURS, EVICTING = "Nexusquant", "Nexusquant, evicting"
HIGHEST_KL = 2.0
"""Above this a model writes nonsense, and how much of it need not be drawn."""

STYLES = {
    OURS: ("#c2410c", "circle", 4),
    EVICTING: ("#fb923c", "circle-open", 3),
    "TurboQuant": ("#2563eb", "square", 2),
    "Hadamard E8": ("#0d9488", "diamond", 2),
    "transformers quanto": ("#7c3aed", "triangle-up", 2),
    "transformers hqq": ("#a16207", "triangle-down", 2),
    "transformers fp8": ("#64748b", "x", 2),
}
LABELS = {"transformers quanto": "transformers, quanto", "transformers hqq": "transformers, HQQ"}
LABELS |= {"transformers fp8": "transformers, fp8"}
BITS_TICKS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)

Point = tuple[float, float, str]
"""Bits per value, KL, method."""


def main() -> None:
    """Print the comparison and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--results", type=Path, default=ROOT / "benchmarks" / "results" / "fidelity.json")
    add("--image", type=Path, default=ROOT / "docs" / "images" / "fidelity.png")
    add("--factors", type=float, nargs="+", default=[4.5, 6.8, 9.0], help="sizes to compare at")
    options = parser.parse_args()
    results = json.loads(options.results.read_text(encoding="utf-8"))
    names = list(results["texts"])
    for texts in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
        print_comparison(points_by_family(results, texts), " + ".join(texts), options.factors)
    save_image(figure(results), options.image)


def points_by_family(results: Mapping, texts: Sequence[str]) -> dict[str, list[Point]]:
    """Mean over these texts of every method that was measured on all of them."""
    rows: dict[tuple[str, str], list[Mapping]] = {}
    for row in results["rows"]:
        if row["text"] in texts and "error" not in row:
            rows.setdefault((row["family"], row["method"]), []).append(row)
    families: dict[str, list[Point]] = {}
    for (family, method), found in rows.items():
        if len(found) == len(texts) and family in STYLES:
            bits, kl = (sum(row[n] for row in found) / len(found) for n in ("bits_per_value", "kl"))
            families.setdefault(family, []).append((bits, kl, method))
    return families


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in size and divergence at once, by rising size."""
    best: list[Point] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def kl_at(points: Sequence[Point], bits: float) -> float:
    """The least divergence of a family at a size, straight between its points in log-log.

    Args:
        points: Its points.
        bits: Bits per value that may be used.

    Returns:
        KL in nats; infinite below the smallest point. Above the largest, that one's.
    """
    line = frontier(points)
    if not line or bits < line[0][0]:
        return math.inf
    for (low_bits, low_kl, _), (high_bits, high_kl, _) in itertools.pairwise(line):
        if bits <= high_bits:
            share = math.log(bits / low_bits) / math.log(high_bits / low_bits)
            return math.exp(math.log(low_kl) + share * math.log(high_kl / low_kl))
    return line[-1][1]


def print_comparison(
    families: Mapping[str, Sequence[Point]], title: str, factors: Sequence[float]
) -> None:
    """Print the KL of ours and of the best peer at equal bytes, and their quotient."""
    for factor in factors:
        bits = 16 / factor
        # peers remove nothing, so ours must not either
        codes = {family: points for family, points in families.items() if family != EVICTING}
        kls = {family: kl_at(points, bits) for family, points in codes.items()}
        ours = kls.pop(OURS, math.inf)
        best = min(kls, key=kls.__getitem__, default="")
        if math.inf in (ours, kls.get(best, math.inf)):
            print(f"{title}: {factor:g}x ({bits:.2f} bits): nothing to compare")
            continue
        print(
            f"{title}: {factor:g}x ({bits:.2f} bits): ours {ours:.5f}, "
            f"best peer {kls[best]:.5f} ({best}), {kls[best] / ours:.1f} times"
        )


def figure(results: Mapping) -> go.Figure:
    """KL against bits per value, both logarithmic; the mean over all texts."""
    families = {
        family: [point for point in points if point[1] <= HIGHEST_KL]
        for family, points in points_by_family(results, list(results["texts"])).items()
    }
    chart = go.Figure()
    # ours last: on top of the others
    for family in sorted(families, key=list(STYLES).index, reverse=True):
        _add_family(chart, family, families[family])
    shown = [point for points in families.values() for point in points]
    subtitle = (
        f"{results['model']}: {results['prefix_tokens']:,} tokens in the cache, the next "
        f"{results['compared_tokens']} compared; mean over {', '.join(results['texts'])}. "
        f"Settings worse than {HIGHEST_KL:g} nats are left out."
    )
    ticks = [f"{bits:g}<br>{16 / bits:.3g}×" for bits in BITS_TICKS]
    chart.update_layout(
        title={"text": "Divergence from the uncompressed model, by size", "x": 0.07, "y": 0.96},
        title_subtitle={"text": subtitle, "font": {"size": 14, "color": "#475569"}},
        template="plotly_white",
        font={"family": "Liberation Sans, Arial, sans-serif", "size": 15, "color": "#0f172a"},
        legend={"x": 0.99, "y": 0.98, "xanchor": "right", "bgcolor": "rgba(255,255,255,0.85)"},
        legend_traceorder="reversed",
        width=1200,
        height=760,
        margin={"l": 90, "r": 30, "t": 100, "b": 90},
    )
    chart.update_xaxes(
        type="log",
        title="Bits per value, and how many times smaller than 16 bits; every byte held is counted",
        tickvals=BITS_TICKS,
        ticktext=ticks,
        range=log_range([point[0] for point in shown]),
    )
    chart.update_yaxes(
        type="log",
        title="Mean KL divergence per token, nats (lower is better)",
        dtick=1,
        tickformat="~f",
        minor={"dtick": "D1", "showgrid": True, "gridcolor": "#f1f5f9"},
        range=log_range([point[1] for point in shown]),
    )
    return chart


def _add_family(chart: go.Figure, family: str, points: Sequence[Point]) -> None:
    colour, symbol, width = STYLES[family]
    line = frontier(points)
    others = [point for point in points if point not in line]
    for some, mode, opacity in ((others, "markers", 0.3), (line, "lines+markers", 1.0)):
        chart.add_trace(
            go.Scatter(
                x=[point[0] for point in some],
                y=[point[1] for point in some],
                text=[point[2] for point in some],
                mode=mode,
                name=LABELS.get(family, family),
                showlegend=some is line,
                opacity=opacity,
                line={"color": colour, "width": width},
                marker={"color": colour, "symbol": symbol, "size": 6 + width},
            )
        )


def log_range(values: Sequence[float]) -> list[float]:
    """Ends of a logarithmic axis, a little beyond the values."""
    low, high = math.log10(min(values)), math.log10(max(values))
    gap = 0.04 * (high - low)
    return [low - gap, high + gap]


def save_image(chart: go.Figure, path: Path) -> None:
    """Draw the figure in a browser and keep what it shows.

    Raises:
        SystemExit: No Chromium is installed.
    """
    browser_path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if browser_path is None:
        raise SystemExit(f"No browser: none of {', '.join(CHROMIUM_NAMES)} is installed.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_path = Path(folder) / "fidelity.html"
        chart.write_html(page_path, include_plotlyjs=True, config={"displayModeBar": False})
        browser = driver.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        size = {"width": chart.layout.width, "height": chart.layout.height}
        page = browser.new_page(viewport=size, device_scale_factor=2)
        page.goto(page_path.as_uri())
        page.wait_for_selector(".scatterlayer .trace")
        page.locator(".plotly-graph-div").screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main()
