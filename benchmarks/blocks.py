"""What reading a text in blocks costs: the same text in one block, and in blocks of fewer tokens.

A later block is read, and read again, over what earlier ones left: codes, and fewer of them. Two
measures: KL divergence over 512 tokens after a prefix of 7,168 (as in `fidelity.py`), and needles
found in texts of 8,000 tokens (as in `recall.py`: relative to what the uncompressed model finds).
Runs add up in one JSON file; what is in it for this device is not measured again.

    python benchmarks/blocks.py --text prose=FILE --text speech=FILE [--measure kl] [--seeds 7]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fidelity_protocol import Method, measure, read_exactly  # noqa: E402
from recall import load_float32  # noqa: E402
from recall_protocol import ask, held_vectors  # noqa: E402
from recall_tasks import Context, make_context  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.engine import LoadedModel  # noqa: E402

SPANS = (16_384, 4096, 2048)
"""Tokens that may be exact at once; the first is one block here."""

PREFIX, COMPARED, STEP = 7168, 512, 64
RECALL_TOKENS = 8000
SAME_ROW = ("measure", "text", "preset", "span", "device")


def main() -> None:
    """Measure what is missing in the file, and print all of it."""
    options = _options()
    loaded = load_float32(options.data_dir, options.device)
    profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    done = {_place(row) for row in rows}
    texts = {
        name: loaded.tokenizer(Path(path).read_text()[:1_000_000], add_special_tokens=False)
        for name, path in options.text
    }
    ids = {name: encoded["input_ids"] for name, encoded in texts.items()}
    for row in _rows(loaded, profile, ids, options, done):
        rows.append(row)
        print(row, flush=True)
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        head = json.dumps({"benchmark": "blocks", "model": loaded.name})[:-1]
        options.out.write_text(f'{head},\n "rows": [\n{lines}\n ]}}\n', encoding="utf-8")
    _print_table(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=lambda t: t.split("=", 1))
    add("--preset", action="append", choices=("safe", "high", "balanced", "max"))
    add("--measure", action="append", choices=("kl", "needles"))
    add("--seeds", type=int, default=7, help="texts with needles")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "blocks.json")
    add("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    options.preset = options.preset or ["balanced"]
    options.measure = options.measure or ["kl", "needles"]
    return options


def _rows(
    loaded: LoadedModel,
    profile: nexusquant.ModelProfile,
    ids: dict[str, list[int]],
    options: argparse.Namespace,
    done: set[tuple],
) -> Iterator[dict]:
    """Everything asked for that is not in the file."""

    def missing(what: str, text: str) -> list[dict]:
        base = {"measure": what, "text": text, "device": loaded.device.type}
        rows = [{**base, "preset": p, "span": s} for p in options.preset for s in SPANS]
        return [row for row in rows if _place(row) not in done]

    for name, tokens in ids.items() if "kl" in options.measure else ():
        if rows := missing("kl", name):
            text = torch.tensor([tokens[: PREFIX + COMPARED + 1]])
            reading = read_exactly(loaded.model, text, PREFIX, STEP)
            for row in rows:
                yield row | _kl(loaded, profile, reading, _config(row))
    sources = list(ids.values())
    for seed in range(options.seeds if "needles" in options.measure else 0):
        if rows := missing("needles", f"seed {seed}"):
            source = sources[seed % len(sources)]
            context = make_context("needles", loaded.tokenizer, source, RECALL_TOKENS, seed)
            context, uncompressed = _fair(loaded, context)
            for row in rows:
                yield row | _needles(loaded, profile, context, uncompressed, _config(row))


def _place(row: dict) -> tuple:
    return tuple(row[name] for name in SAME_ROW)


def _config(row: dict) -> nexusquant.CompressionConfig:
    return replace(nexusquant.PRESETS[row["preset"]], exact_prefill_tokens=row["span"])


def _kl(loaded: LoadedModel, profile, reading, config: nexusquant.CompressionConfig) -> dict:
    method = Method(
        "",
        "",
        lambda model, read: nexusquant.prefill(model, read.prefix_ids, config, profile=profile),
        nexusquant.CompressedCache.finish_prefill,
    )
    figures = measure(loaded.model, method, reading)
    names = {"kl": 5, "top1_agreement": 4, "factor": 2}
    return {name: round(figures[name], digits) for name, digits in names.items()}


def _fair(loaded: LoadedModel, context: Context) -> tuple[Context, list[bool]]:
    """The questions that need the text, and which of them the uncompressed model answers."""
    cache = nexusquant.prefill(loaded.model, context.ids, nexusquant.PRESETS["off"])
    layers = [held_vectors(layer) for layer in cache.layers]
    guesses = ask(loaded.model, [layer.nothing() for layer in layers], 0, context.questions)
    fair = [q for q, guess in zip(context.questions, guesses, strict=True) if not all(guess)]
    context = replace(context, questions=fair)
    return context, _found(loaded, cache, context)


def _needles(
    loaded: LoadedModel, profile, context: Context, uncompressed: list[bool], config
) -> dict:
    cache = nexusquant.prefill(loaded.model, context.ids, config, profile=profile)
    both = map(min, uncompressed, _found(loaded, cache, context))
    return {
        "found_of_uncompressed": sum(both),
        "uncompressed": sum(uncompressed),
        "factor": round(cache.usage().compression_factor, 2),
    }


def _found(loaded: LoadedModel, cache: nexusquant.CompressedCache, context: Context) -> list[bool]:
    layers = [held_vectors(layer) for layer in cache.layers]
    answers = ask(loaded.model, layers, context.ids.shape[1], context.questions)
    return [all(answer) for answer in answers]


def _print_table(rows: list[dict]) -> None:
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        text = row["text"] if row["measure"] == "kl" else "all"
        groups[row["measure"], row["device"], text, row["preset"], row["span"]].append(row)
    for (what, device, text, preset, span), group in sorted(groups.items()):
        if what == "kl":
            figures = f"KL {group[0]['kl']:.5f}, same top {group[0]['top1_agreement']:.4f}"
        else:
            found, of = (
                sum(row[name] for row in group)
                for name in ("found_of_uncompressed", "uncompressed")
            )
            figures = f"{found} of {of} in {len(group)} texts"
        factor = sum(row["factor"] for row in group) / len(group)
        print(f"{device:5} {text:7} {preset:9} {span:6} {figures}, factor {factor:.1f}")


if __name__ == "__main__":
    main()
