"""The search behind the presets: bits against tokens, at the bytes that a preset may take.

Every combination gets those bytes; what it then finds of needles in long texts is counted as in
`recall.py`. A text is read once and coded with all bits. Prints a table and writes JSON; runs add
up, a text that is in the file already is not read again.

    python benchmarks/preset_grid.py --text prose=FILE --text speech=FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recall import fair, hits, load_float32, read, setting  # noqa: E402
from recall_protocol import CodedText, held_vectors  # noqa: E402
from recall_summary import WHOLE, open_results  # noqa: E402
from recall_tasks import Context, make_context  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.cache.codec import LayerCodec  # noqa: E402
from nexusquant.cache.profile import make_codecs  # noqa: E402
from nexusquant.engine import LoadedModel  # noqa: E402

Bits = tuple[float, float]
Codecs = Mapping[Bits, Sequence[LayerCodec | None]]

HEAD_DIM = 64
BYTES_BESIDE = 1.5
"""What a pair of a text of 8,000 tokens takes besides codes: exact tokens, tables, page slack."""
FACTORS = {"high": 10.15, "balanced": 17.15, "max": 33.2}
"""Bytes in 16 bits over those that a combination may take; a little is left for other texts.

High is ten times smaller at 4,096 tokens already: of texts of 8,000 it takes fewer bytes than here.
"""
BITS = {
    WHOLE: ((2, 2), (3, 3)),
    "high": ((3, 3), (3.5, 3.5)),
    "balanced": ((1.75, 2.75), (2, 2), (2, 2.5), (2, 3), (2.25, 2.25), (2.5, 2), (2.5, 2.5)),
    "max": ((1.75, 1.75), (1.75, 2.75), (2, 2), (2, 2.5), (2.25, 2.25), (2.5, 2), (2.5, 2.5)),
}
"""Bits of keys and of values to try for each preset."""
TASKS = {"needles": 28}
"""Texts of each task."""
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
    options = _options()
    loaded = load_float32(options.data_dir, options.device)
    profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
    codecs = _codecs(loaded, profile)
    hays = [
        loaded.tokenizer(Path(path).read_text("utf-8")[:1_000_000], add_special_tokens=False)
        for _, path in options.text
    ]
    results = open_results(options.out, setting("preset_grid", loaded, options.tokens))
    done = {(row["task"], row["seed"]) for row in results["rows"]}
    for seed in range(options.first_seed, options.first_seed + max(TASKS.values())):
        for task, count in TASKS.items():
            if (task, seed) not in done and seed < options.first_seed + count:
                hay = hays[seed % len(hays)]["input_ids"]
                context = make_context(task, loaded.tokenizer, hay, options.tokens, seed)
                rows = _rows(loaded, profile, codecs, context)
                results["rows"] += [row | {"seed": seed} for row in rows]
                _write(options.out, results)
    _print(results["rows"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=lambda t: t.split("=", 1))
    add("--tokens", type=int, default=8000)
    add("--first-seed", type=int, default=FIRST_SEED)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "preset_grid.json")
    add("--data-dir", type=Path, default=Path("data"))
    return parser.parse_args()


def _codecs(loaded: LoadedModel, profile: nexusquant.ModelProfile) -> Codecs:
    codecs = {}
    for key_bits, value_bits in dict.fromkeys(bits for of in BITS.values() for bits in of):
        quant = nexusquant.QuantConfig(key_bits=key_bits, value_bits=value_bits)
        codecs[key_bits, value_bits] = make_codecs(loaded.model, quant, profile)[0]
    return codecs


def _choices(bits: Bits) -> Iterator[Choice]:
    for preset in (name for name, of_preset in BITS.items() if bits in of_preset):
        if preset == WHOLE:
            yield Choice("all kept", WHOLE, bits, None)
            continue
        yield Choice(preset, preset, bits, nexusquant.PRESETS[preset].eviction)


def _rows(
    loaded: LoadedModel, profile: nexusquant.ModelProfile, codecs: Codecs, context: Context
) -> Iterator[dict]:
    reading, _ = read(loaded, profile, context)
    scores = reading._evictor.reread.scores()
    held = [held_vectors(layer) for layer in reading.layers]
    context = fair(loaded, held, context)
    exact = hits(loaded, held, context)
    for bits, of_bits in codecs.items():
        coded = CodedText(reading, of_bits)
        for choice in _choices(bits):
            least, eviction = 0, choice.eviction
            if eviction:
                least = int(coded.usage.uncompressed_bytes / FACTORS[choice.preset])
                eviction = replace(eviction, keep_ratio=_start(choice))
            own = coded.per_byte(scores) if eviction else None
            held, usage = coded.compress(own, eviction, least)
            answers = hits(loaded, held, context)
            yield {
                "task": context.task,
                "choice": choice.name,
                "bits": bits,
                "found": sum(answers),
                "found_of_uncompressed": sum(map(min, exact, answers)),
                "uncompressed": sum(exact),
                "factor": round(usage.compression_factor, 2),
                "kept_share": round(usage.kept_share, 4),
            }


def _start(choice: Choice) -> float:
    """A share of pairs that takes a little less than what the choice may take."""
    for_pairs = 4 * HEAD_DIM / FACTORS[choice.preset] - BYTES_BESIDE
    return min(1.0, for_pairs / (HEAD_DIM / 8 * sum(choice.bits) + 2))


def _write(path: Path, results: dict) -> None:
    head = json.dumps({k: v for k, v in results.items() if k not in ("rows", "summary")}, indent=1)
    rows = ",\n".join("  " + json.dumps(row) for row in results["rows"])
    path.write_text(head.removesuffix("\n}") + f',\n "rows": [\n{rows}\n ]\n}}\n', "utf-8")


def _print(rows: Sequence[dict]) -> None:
    cells: dict[tuple, list[dict]] = {}
    for row in rows:
        cells.setdefault((row["task"], row["choice"], tuple(row["bits"])), []).append(row)
    for (task, choice, bits), of_cell in sorted(cells.items()):
        found, both, of = (
            sum(row[name] for row in of_cell)
            for name in ("found", "found_of_uncompressed", "uncompressed")
        )
        factor, kept = (min(row[name] for row in of_cell) for name in ("factor", "kept_share"))
        print(
            f"{task:10} {choice:22} {bits!s:12} {found:4} ({both:4}) of {of:4}: "
            f"{found / max(1, of):.3f}  at least {factor:.2f}x, {kept:.3f} kept, "
            f"{len(of_cell)} texts"
        )


if __name__ == "__main__":
    main()
