"""Put the tables of measured presets, recall and speed into README.md.

python benchmarks/presets.py --text FILE | tail -n 1 > benchmarks/results/presets.json
python benchmarks/recall.py --text prose=FILE --text speech=FILE --manual FILE.pdf
python benchmarks/recall_chat.py
python benchmarks/plot_recall.py
python benchmarks/attention.py | tail -n 1 > benchmarks/results/attention.json
python benchmarks/generation.py | tail -n 1 > benchmarks/results/generation_h200.json
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


def speed_table(results: dict) -> str:
    """Markdown table of a run of `benchmarks/attention.py` and one of `generation.py`."""
    attention, generation = results["attention"], results["generation"]
    if attention["device"] != generation["device"]:
        raise ValueError("attention and answers were measured on two kinds of GPU.")
    presets = list(dict.fromkeys(row["preset"] for row in attention["rows"]))
    shape = f"{attention['device']}, Llama-3.1-8B's shape"
    head = [shape, "16 bits", *map(str.capitalize, presets)]
    lines = [head, ["---"] * len(head)]
    for num_tokens in dict.fromkeys(row["num_tokens"] for row in attention["rows"]):
        rows = [row for row in attention["rows"] if row["num_tokens"] == num_tokens]
        exact = min(rows[0][f"{name}_us_after_reads"] for name in ("flash", "cudnn"))
        times = [row["kernel_us_after_reads"] for row in rows]
        cells = [f"{time:.0f} us ({exact / time:.1f}x)" for time in times]
        lines.append([f"one token's attention over {num_tokens:,}", f"{exact:.0f} us", *cells])
    for num_tokens in dict.fromkeys(row["num_tokens"] for row in generation["rows"]):
        exact, *rows = (row for row in generation["rows"] if row["num_tokens"] == num_tokens)
        speeds = [row["decode_tok_s"] for row in rows]
        cells = [f"{speed:.0f} ({speed / exact['decode_tok_s']:.1f}x)" for speed in speeds]
        name = f"tokens a second of an answer over {num_tokens:,}"
        lines.append([name, f"{exact['decode_tok_s']:.0f}", *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES = {"presets": preset_table, "recall": recall_table, "speed": speed_table}


def read_results(name: str) -> dict:
    """What was measured for a table; chats, where they were measured, stand with the texts."""
    if name == "speed":
        files = {"attention": "attention", "generation": "generation_h200"}
        return {of: read_results(file) for of, file in files.items()}
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
