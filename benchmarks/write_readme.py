"""Put the tables of measured presets and of measured recall into README.md.

python benchmarks/presets.py --text FILE | tail -n 1 > benchmarks/results/presets.json
python benchmarks/recall.py --text prose=FILE --text speech=FILE --manual FILE.pdf
python benchmarks/recall_chat.py
python benchmarks/plot_recall.py
python benchmarks/write_readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
OURS = "reconstruction"
RULES = {
    OURS: "Second reading (the presets)",
    "snapkv": "SnapKV",
    "expected_attention": "Expected attention",
    "streaming": "Newest tokens",
    "random": "Random",
}


def preset_table(results: dict) -> str:
    """Markdown table of one run of `benchmarks/presets.py`."""
    lines = [
        f"{results['model']}, {results['prefix_tokens']:,} tokens read, "
        f"{results['compared_tokens']} compared:",
        "",
        "| Preset | Stored | In 16 bits | Factor | Bits per value | Kept | KL | Same top token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['preset'].capitalize()} | {row['stored_bytes'] / 1e6:.1f} MB "
            f"| {row['uncompressed_bytes'] / 1e6:.1f} MB | {row['compression_factor']:.1f} "
            f"| {row['bits_per_value'] or '-'} | {row['kept_share']:.0%} "
            f"| {row['kl']:.3f} | {row['top1_agreement']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def recall_table(results: dict) -> str:
    """Markdown table of runs of `benchmarks/recall.py` and `recall_chat.py`.

    All tasks with the presets, the first one with the other rules too; the picture has the rest.
    """
    cells = {(row["task"], *row["method"].split(" ")): row for row in results["summary"]}
    measured = {preset for _, _, preset in cells}
    presets = [name for name in ("safe", *results["keep_ratios"]) if name in measured]
    lines = [
        f"| {results['model']} | " + " | ".join(name.capitalize() for name in presets) + " |",
        "|---|" + "---|" * len(presets),
    ]
    pairs = list(dict.fromkeys((task, rule) for task, rule, _ in cells))
    pairs.sort(key=lambda pair: pair[1] != OURS)
    for task, rule in pairs:
        if rule != OURS and task != pairs[0][0]:
            continue
        found = [cells.get((task, rule, preset)) for preset in presets]
        of = next(filter(None, found))
        lines.append(
            f"| {task}, {of['num_questions']} {of.get('unit', 'questions')}: {RULES[rule]} | "
            + " | ".join(map(_recall_cell, found))
            + " |"
        )
    return "\n".join(lines) + "\n"


def _recall_cell(row: dict | None) -> str:
    if row is None:
        return "-"
    interval = f"{row['low']:.2f}-{row['high']:.2f}"
    return f"{row['recall']:.2f} ({interval}) at {row['least_factor']:.1f}x"


TABLES = {"presets": preset_table, "recall": recall_table}


def read_results(name: str) -> dict:
    """What was measured for a table; chats, where they were measured, stand with the texts."""
    results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    chats = RESULTS / f"{name}_chat.json"
    if chats.exists():
        results["summary"] += json.loads(chats.read_text(encoding="utf-8"))["summary"]
    return results


def with_tables(readme: str) -> str:
    """README text with the tables between their marks replaced by those of the results."""
    for name, table in TABLES.items():
        results = read_results(name)
        marks = re.compile(rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = table(results)
        readme = marks.sub(lambda found, text=text: found[1] + text + found[2], readme)
    return readme


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
