"""The search behind the presets: bits against tokens at the bytes of each preset, and budgets.

Every combination gets the bytes that the preset takes with 2-bit keys and values; what it then
finds of the facts in long texts is counted as in `recall.py`. Prints a table and writes JSON.

    python benchmarks/preset_grid.py --text prose=FILE --text speech=FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recall import PRESETS, load_float32, setting  # noqa: E402
from recall_protocol import Held, ask, compress, held_vectors  # noqa: E402
from recall_tasks import Context, make_context  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.engine import LoadedModel  # noqa: E402
from nexusquant.engine.prefill import prefill_chunks  # noqa: E402
from nexusquant.engine.rereading import reread_chunks  # noqa: E402

BASE = (2.0, 2.0)
BITS = (BASE, (2.5, 2), (2.5, 2.5), (3, 2), (3, 3), (2, 1.5), (1.5, 1.5))
"""Bits of keys and values."""
BUDGETS = {
    "floor 0": {"head_floor": 0.0},
    "floor 0.5": {"head_floor": 0.5},
    "newest 0.1": {"newest_share": 0.1},
    "newest 0.5": {"newest_share": 0.5},
}
"""Other guarantees than the presets', with 2 + 2 bits."""
TASKS = ("needles", "key-value")
FIRST_SEED = 100
"""Other texts than those that the presets are judged by."""


@dataclass(frozen=True)
class Choice:
    """One cell of the grid: a name, bits, and what is kept; None keeps all."""

    name: str
    preset: str
    bits: tuple[float, float]
    eviction: nexusquant.EvictionConfig | None


def main() -> None:
    """Read texts, ask, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=lambda t: t.split("=", 1))
    add("--tokens", type=int, default=8000)
    add("--seeds", type=int, default=5, help="texts of each task")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "preset_grid.json")
    add("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    loaded = load_float32(options.data_dir, options.device)
    profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
    hays = [
        loaded.tokenizer(Path(path).read_text("utf-8")[:1_000_000], add_special_tokens=False)
        for _, path in options.text
    ]
    results = setting("preset_grid", loaded, options.tokens) | {"rows": []}
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        for task in TASKS:
            hay = hays[seed % len(hays)]["input_ids"]
            context = make_context(task, loaded.tokenizer, hay, options.tokens, seed)
            results["rows"] += [row | {"seed": seed} for row in _rows(loaded, profile, context)]
            options.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    _print(results["rows"])


def _choices() -> Iterator[Choice]:
    for bits in BITS:
        yield Choice("all kept", "safe", bits, None)
        for preset in PRESETS:
            eviction = nexusquant.PRESETS[preset].eviction
            # 64 values a pair and a byte of scale each; `compress` finds the rest
            share = (8 * sum(BASE) + 2) / (8 * sum(bits) + 2)
            kept = min(1.0, eviction.keep_ratio * share)
            yield Choice(preset, preset, bits, replace(eviction, keep_ratio=kept))
            for name, change in BUDGETS.items() if bits == BASE else ():
                yield Choice(f"{preset}, {name}", preset, bits, replace(eviction, **change))


def _rows(
    loaded: LoadedModel, profile: nexusquant.ModelProfile, context: Context
) -> Iterator[dict]:
    bits, cache, least = None, None, Counter()
    for choice in _choices():
        if choice.bits != bits:
            bits, cache = choice.bits, _read(loaded, profile, context, choice.bits)
            exact = [held_vectors(layer) for layer in cache.layers]
        scores = cache._evictor.reread.scores() if choice.eviction else None
        made = compress(cache, scores, choice.eviction, least[choice.preset])
        usage = made.usage()
        if choice.eviction and choice.preset not in least:
            least[choice.preset] = int(usage.stored_bytes * 0.995)
        yield {
            "task": context.task,
            "choice": choice.name,
            "bits": bits,
            "found": _count(loaded, [held_vectors(layer) for layer in made.layers], context),
            "uncompressed": _count(loaded, exact, context),
            "factor": round(usage.compression_factor, 2),
        }


def _read(
    loaded: LoadedModel,
    profile: nexusquant.ModelProfile,
    context: Context,
    bits: tuple[float, float],
) -> nexusquant.CompressedCache:
    quant = nexusquant.QuantConfig(key_bits=bits[0], value_bits=bits[1])
    config = replace(nexusquant.PRESETS["high"], quant=quant)
    cache = nexusquant.CompressedCache(loaded.model, config, profile)
    for chunks in (prefill_chunks, reread_chunks):
        for _ in chunks(loaded.model, context.ids, cache):
            pass
    return cache


def _count(loaded: LoadedModel, layers: list[Held], context: Context) -> int:
    answers = ask(loaded.model, layers, context.ids.shape[1], context.questions)
    return sum(all(answer) for answer in answers)


def _print(rows: list[dict]) -> None:
    for task in TASKS:
        for bits in BITS:
            of_bits = [r for r in rows if r["task"] == task and tuple(r["bits"]) == bits]
            for choice in dict.fromkeys(row["choice"] for row in of_bits):
                cells = [row for row in of_bits if row["choice"] == choice]
                found, of = (sum(r[name] for r in cells) for name in ("found", "uncompressed"))
                factor = min(row["factor"] for row in cells)
                print(f"{task:10} {bits!s:12} {choice:24} {found:4} of {of:4}  {factor:.1f}x")


if __name__ == "__main__":
    main()
