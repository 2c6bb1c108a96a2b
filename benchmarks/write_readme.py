"""Put the table of measured presets into README.md.

python benchmarks/presets.py --text FILE | tail -n 1 > benchmarks/results/presets.json
python benchmarks/write_readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "presets.json"
README = ROOT / "README.md"
MARKS = re.compile(r"(<!-- presets:[^\n]*-->\n).*?(<!-- /presets -->)", re.DOTALL)


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


def with_table(readme: str, results: dict) -> str:
    """README text with the table between its marks replaced."""
    return MARKS.sub(lambda found: found[1] + preset_table(results) + found[2], readme)


if __name__ == "__main__":
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    README.write_text(with_table(README.read_text(encoding="utf-8"), results), encoding="utf-8")
