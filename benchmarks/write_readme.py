"""Put the tables of measured presets and of measured recall into README.md.

python benchmarks/presets.py --text FILE | tail -n 1 > benchmarks/results/presets.json
python benchmarks/recall.py --text prose=FILE --text speech=FILE
python benchmarks/write_readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
RULES = {
    "reconstruction": "Second reading (the presets)",
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
    """Markdown table of runs of `benchmarks/recall.py`."""
    presets = list(results["keep_ratios"])
    cells = {(row["task"], *row["method"].split(" ")): row for row in results["summary"]}
    lines = [
        f"| {results['model']} | " + " | ".join(name.capitalize() for name in presets) + " |",
        "|---|" + "---|" * len(presets),
    ]
    for task, rule in dict.fromkeys((task, rule) for task, rule, _ in cells):
        found = [cells[task, rule, preset] for preset in presets]
        num = found[0]["num_questions"]
        lines.append(
            f"| {task}, {num} questions: {RULES[rule]} | "
            + " | ".join(
                f"{row['recall']:.2f} ({row['low']:.2f}-{row['high']:.2f}) at "
                f"{row['least_factor']:.1f}x"
                for row in found
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


TABLES = {"presets": preset_table, "recall": recall_table}


def with_tables(readme: str) -> str:
    """README text with the tables between their marks replaced by those of the results."""
    for name, table in TABLES.items():
        results = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        marks = re.compile(rf"(<!-- {name}:[^\n]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = table(results)
        readme = marks.sub(lambda found, text=text: found[1] + text + found[2], readme)
    return readme


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
