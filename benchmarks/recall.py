"""How many facts of a long text can still be found after eviction, ours and other rules.

Texts with hidden facts are read, compressed without knowing any question, and asked about; see
`recall_tasks.py` and `recall_protocol.py`. Recall is relative to what the uncompressed model finds;
intervals are 95 % bootstrap intervals over texts. Prints a table and writes JSON; runs add up,
a text that is in the file already is not read again.

    python benchmarks/recall.py --text prose=FILE --text speech=FILE
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recall_protocol import ask, compress, held_vectors, observations  # noqa: E402
from recall_tasks import TASKS, Context, make_context  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.engine import LoadedModel, load_embedded_model  # noqa: E402
from nexusquant.engine.prefill import prefill_chunks  # noqa: E402
from nexusquant.engine.rereading import reread_chunks  # noqa: E402
from nexusquant.eviction import make_scorer  # noqa: E402

PRESETS = ("high", "balanced", "max")
PEERS = ("snapkv", "expected_attention", "streaming", "random")
PEER_TASK, OURS = "needles", "reconstruction"
NUM_RESAMPLES = 2000


def main() -> None:
    """Read texts, ask, and write what was found."""
    options = _options()
    loaded = load_embedded_model(options.data_dir, "cpu")
    profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
    hays = [_tokens(loaded, path) for _, path in options.text]
    results = _open(options, loaded)
    done = {(row["task"], row["seed"]) for row in results["rows"]}
    for seed in range(options.seeds):
        for task in options.task or TASKS:
            if (task, seed) in done:
                continue
            hay = hays[seed % len(hays)]
            context = make_context(task, loaded.tokenizer, hay, options.tokens, seed)
            peers = PEERS if seed < options.peer_seeds and task == PEER_TASK else ()
            results["rows"].append(_measure(loaded, profile, context, seed, peers))
            _write(options.out, results)
    _print(results["summary"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=lambda t: t.split("=", 1))
    add("--tokens", type=int, default=8000, help="length of each text")
    add("--seeds", type=int, default=8, help="texts of each task")
    add("--peer-seeds", type=int, default=4, help=f"texts of {PEER_TASK!r} for the other rules")
    add("--task", action="append", choices=tuple(TASKS))
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "recall.json")
    add("--data-dir", type=Path, default=Path("data"))
    return parser.parse_args()


def _tokens(loaded: LoadedModel, path: str) -> list[int]:
    text = Path(path).read_text(encoding="utf-8")[:1_000_000]
    return loaded.tokenizer(text, add_special_tokens=False)["input_ids"]


def _measure(
    loaded: LoadedModel,
    profile: nexusquant.ModelProfile,
    context: Context,
    seed: int,
    peers: Sequence[str],
) -> dict:
    """Answers of every rule at every preset's budget, as counts."""
    started = time.perf_counter()
    reading = nexusquant.CompressedCache(loaded.model, nexusquant.PRESETS["high"], profile)
    for _ in prefill_chunks(loaded.model, context.ids, reading):
        pass
    read = time.perf_counter()
    for _ in reread_chunks(loaded.model, context.ids, reading):
        pass
    reread = time.perf_counter()
    exact = [held_vectors(layer) for layer in reading.layers]
    found = ask(loaded.model, exact, context.ids.shape[1], context.questions)
    row = {
        "task": context.task,
        "seed": seed,
        "num_tokens": context.ids.shape[1],
        "num_questions": len(found),
        "uncompressed": sum(found),
        "read_s": round(read - started, 1),
        "reread_s": round(reread - read, 1),
        "methods": {},
    }
    for name in (OURS, *peers):
        scores = _scores(name, reading, seed)
        for preset in PRESETS:
            cache = compress(reading, scores, _eviction(preset, name))
            held = [held_vectors(layer) for layer in cache.layers]
            answers = ask(loaded.model, held, context.ids.shape[1], context.questions)
            both = sum(a and b for a, b in zip(found, answers, strict=True))
            usage = cache.usage()
            row["methods"][f"{name} {preset}"] = {
                "found": sum(answers),
                "found_of_uncompressed": both,
                "factor": round(usage.compression_factor, 3),
                "stored_bytes": usage.stored_bytes,
            }
    print(context.task, seed, f"{time.perf_counter() - started:.0f} s", row, flush=True)
    return row


def _eviction(preset: str, scorer: str) -> nexusquant.EvictionConfig:
    eviction = nexusquant.PRESETS[preset].eviction
    # each rule as it was published: what is newest is theirs to weigh
    return eviction if scorer == OURS else replace(eviction, newest_share=0.0)


def _scores(name: str, reading: nexusquant.CompressedCache, seed: int) -> Sequence[torch.Tensor]:
    if name == OURS:
        return reading._evictor.reread.scores()
    if name == "random":
        generator = torch.Generator().manual_seed(seed)
        shape = (reading.layers[0].recent[0].shape[0], len(reading.waiting_tokens()))
        return [torch.rand(shape, generator=generator) for _ in reading.layers]
    scorer = make_scorer(nexusquant.ScorerName(name))
    return [scorer.score(observation) for observation in observations(reading)]


def _summary(rows: Sequence[dict]) -> list[dict]:
    """Relative recall and its interval for each task, rule and preset."""
    return [
        _line(task, method, [row for row in rows if row["task"] == task])
        for task in TASKS
        for method in dict.fromkeys(
            n for row in rows if row["task"] == task for n in row["methods"]
        )
    ]


def _line(task: str, method: str, rows: Sequence[dict]) -> dict:
    tried = [(row["methods"][method], row) for row in rows if method in row["methods"]]
    counts = [(found["found"], row["uncompressed"]) for found, row in tried]
    low, high = _interval(counts, _ratio)
    return {
        "task": task,
        "method": method,
        "recall": round(_ratio(counts), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "num_questions": sum(row["num_questions"] for _, row in tried),
        "num_found_uncompressed": sum(row["uncompressed"] for _, row in tried),
        "num_texts": len(counts),
        "least_factor": min(found["factor"] for found, _ in tried),
    }


def _ratio(counts: Sequence[tuple[int, int]]) -> float:
    return sum(a for a, _ in counts) / max(1, sum(b for _, b in counts))


def _interval(
    counts: Sequence[tuple[int, int]], statistic: Callable[[Sequence[tuple[int, int]]], float]
) -> tuple[float, float]:
    rng = random.Random(0)
    draws = sorted(statistic(rng.choices(counts, k=len(counts))) for _ in range(NUM_RESAMPLES))
    return draws[int(0.025 * NUM_RESAMPLES)], draws[int(0.975 * NUM_RESAMPLES) - 1]


def _open(options: argparse.Namespace, loaded: LoadedModel) -> dict:
    setting = {
        "benchmark": "recall",
        "model": loaded.name,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "keep_ratios": {name: nexusquant.PRESETS[name].eviction.keep_ratio for name in PRESETS},
    }
    if not options.out.exists():
        return {**setting, "summary": [], "rows": []}
    results = json.loads(options.out.read_text(encoding="utf-8"))
    if results["keep_ratios"] != setting["keep_ratios"]:
        raise SystemExit(f"{options.out} was made with other presets; choose another --out.")
    return results


def _write(path: Path, results: dict) -> None:
    results["summary"] = _summary(results["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = {name: results[name] for name in ("summary", "rows")}
    head = json.dumps({k: v for k, v in results.items() if k not in lists}, indent=1)
    parts = [
        f' "{name}": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]"
        for name, rows in lists.items()
    ]
    path.write_text(head.removesuffix("\n}") + ",\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def _print(summary: Sequence[dict]) -> None:
    for row in summary:
        print(
            f"{row['task']:14} {row['method']:28} recall {row['recall']:.3f} "
            f"[{row['low']:.3f}, {row['high']:.3f}]  at least {row['least_factor']:.1f}x  "
            f"{row['num_texts']} texts"
        )


if __name__ == "__main__":
    main()
