"""How much of a long text can still be found after eviction, by our rule and by others.

Texts with hidden facts, manuals and plain texts are read, compressed without knowing any question,
and asked about; see `recall_tasks.py` and `recall_protocol.py`. Recall is relative to what the
uncompressed model finds; what it answers without the text is not asked. Every other rule gets at
least the bytes of ours, in the same bits. Prints a table and writes JSON; runs add up, a text that
is in the file already is not read again.

    python benchmarks/recall.py --text prose=FILE --text speech=FILE --manual FILE.pdf
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recall_protocol import (  # noqa: E402
    CodedText,
    Held,
    answered,
    ask,
    held_vectors,
    observations,
)
from recall_summary import (  # noqa: E402
    OURS,
    SUMMARY,
    WHOLE,
    open_results,
    print_summary,
    write_results,
)
from recall_tasks import MANUAL, TASKS, Context, make_context  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.cache.codec import LayerCodec  # noqa: E402
from nexusquant.cache.profile import make_codecs  # noqa: E402
from nexusquant.documents import extract  # noqa: E402
from nexusquant.engine import LoadedModel, load_model  # noqa: E402
from nexusquant.engine.default_model import default_model_dir, prepare_default_model  # noqa: E402
from nexusquant.engine.prefill import prefill_chunks  # noqa: E402
from nexusquant.engine.rereading import reread_chunks  # noqa: E402
from nexusquant.eviction import make_scorer  # noqa: E402

Codecs = Mapping[str, Sequence[LayerCodec | None]]

PRESETS = ("high", "balanced", "max")
PEERS = ("snapkv", "expected_attention", "streaming", "random")
NUM_TEXTS = {"needles": 56, "same sentence": 28, "key-value": 14, MANUAL: 14, SUMMARY: 8}
"""Texts of each task; over 200 questions each."""
SUMMARY_TOKENS = 64


def main() -> None:
    """Read texts, ask, and write what was found."""
    options = _options()
    loaded = load_float32(options.data_dir, options.device)
    profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
    codecs = {
        name: make_codecs(loaded.model, nexusquant.PRESETS[name].quant, profile)[0]
        for name in (WHOLE, *PRESETS)
    }
    results = open_results(options.out, setting("recall", loaded, options.tokens))
    hays = [_tokens(loaded, _text_file(path)) for _, path in options.text]
    manuals = [_tokens(loaded, _document(path)) for path in options.manual]
    done = {(row["task"], row["seed"]) for row in results["rows"]}
    for task, seed in _texts(options):
        if (task, seed) not in done:
            sources = manuals if task == MANUAL else hays
            source = sources[seed % len(sources)]
            context = make_context(task, loaded.tokenizer, source, options.tokens, seed)
            results["rows"].append(_measure(loaded, profile, codecs, context, seed, options.peer))
            write_results(options.out, results)
    write_results(options.out, results)
    print_summary(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=lambda t: t.split("=", 1))
    add("--manual", action="append", default=[], type=Path, help=f"PDFs for {MANUAL!r}")
    add("--tokens", type=int, default=8000, help="length of each text")
    add("--seeds", type=int, help=f"texts of each task, instead of {NUM_TEXTS}")
    add("--peer", action="append", choices=PEERS, help="other rules; all unless said otherwise")
    add("--task", action="append", choices=TASKS)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "recall.json")
    add("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    options.peer = options.peer or PEERS
    options.task = options.task or [name for name in TASKS if name != MANUAL or options.manual]
    if MANUAL in options.task and not options.manual:
        parser.error(f"--task {MANUAL} needs --manual")
    return options


def _texts(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Tasks and seeds, in turns: a run that is stopped has some of every task."""
    counts = {task: options.seeds or NUM_TEXTS[task] for task in options.task}
    for seed in range(max(counts.values())):
        for task in options.task:
            if seed < counts[task]:
                yield task, seed


def load_float32(data_dir: Path, device: str) -> LoadedModel:
    """The default model in 32 bits wherever it runs: figures of any device can be compared."""
    for _ in prepare_default_model(data_dir):
        pass
    return load_model(default_model_dir(data_dir), device, "float32")


def setting(benchmark: str, loaded: LoadedModel, num_tokens: int) -> dict:
    """What a file of results was measured with."""
    return {
        "benchmark": benchmark,
        "model": loaded.name,
        "machine": platform.machine(),
        "device": loaded.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "num_tokens": num_tokens,
        "keep_ratios": {name: nexusquant.PRESETS[name].eviction.keep_ratio for name in PRESETS},
        "bits": {name: _bits(name) for name in (WHOLE, *PRESETS)},
    }


def _bits(preset: str) -> list[float]:
    quant = nexusquant.PRESETS[preset].quant
    return [quant.key_bits, quant.value_bits]


def _text_file(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")[:1_000_000]


def _document(path: Path) -> str:
    return "\n".join(page.text for page in extract(path).pages)


def _tokens(loaded: LoadedModel, text: str) -> list[int]:
    return loaded.tokenizer(text, add_special_tokens=False)["input_ids"]


def _measure(
    loaded: LoadedModel,
    profile: nexusquant.ModelProfile,
    codecs: Codecs,
    context: Context,
    seed: int,
    peers: Sequence[str],
) -> dict:
    """Answers of every rule at every preset's budget, as counts."""
    started = time.perf_counter()
    reading, times = read(loaded, profile, context)
    exact = [held_vectors(layer) for layer in reading.layers]
    asked = fair(loaded, exact, context)
    found = hits(loaded, exact, asked)
    row = {
        "task": context.task,
        "seed": seed,
        "num_tokens": context.ids.shape[1],
        "num_questions": len(found),
        "num_guessed": len(context.questions) - len(asked.questions),
        "uncompressed": sum(found),
        **times,
        "methods": {},
    }
    scores = {name: _scores(name, reading, seed) for name in (OURS, *peers)}
    for preset in (WHOLE, *PRESETS):
        coded = CodedText(reading, codecs[preset])
        for name in (OURS,) if preset == WHOLE else scores:
            # bytes that ours used, for the others to use
            least = row["methods"].get(f"{OURS} {preset}", {}).get("stored_bytes", 0)
            eviction = _eviction(preset, name)
            own = coded.per_byte(scores[name]) if name == OURS else scores[name]
            held, usage = coded.compress(own if eviction else None, eviction, least)
            answers = hits(loaded, held, asked)
            row["methods"][f"{name} {preset}"] = {
                "found": sum(answers),
                "found_of_uncompressed": sum(map(min, found, answers)),
                "factor": round(usage.compression_factor, 3),
                "stored_bytes": usage.stored_bytes,
                "kept_share": round(usage.kept_share, 4),
            }
    print(context.task, seed, f"{time.perf_counter() - started:.0f} s", row, flush=True)
    return row


def read(
    loaded: LoadedModel, profile: nexusquant.ModelProfile, context: Context
) -> tuple[nexusquant.CompressedCache, dict]:
    """An open cache of the text, read twice, and how long each reading took."""
    cache = nexusquant.CompressedCache(loaded.model, nexusquant.PRESETS["high"], profile)
    times = {}
    for name, chunks in (("read_s", prefill_chunks), ("reread_s", reread_chunks)):
        started = time.perf_counter()
        for _ in chunks(loaded.model, context.ids, cache):
            pass
        times[name] = round(time.perf_counter() - started, 2)
    return cache, times


def fair(loaded: LoadedModel, exact: Sequence[Held], context: Context) -> Context:
    """The questions that need the text; an open one with the uncompressed model's answer."""
    model, num_seen = loaded.model, context.ids.shape[1]
    if context.is_open:
        written = answered(model, exact, num_seen, context.questions, SUMMARY_TOKENS)
        return replace(context, questions=written)
    guesses = ask(model, [layer.nothing() for layer in exact], 0, context.questions)
    fair = [q for q, guess in zip(context.questions, guesses, strict=True) if not all(guess)]
    return replace(context, questions=fair)


def hits(loaded: LoadedModel, layers: Sequence[Held], context: Context) -> list[bool]:
    """What was found: whole answers, of open questions single tokens."""
    answers = ask(loaded.model, layers, context.ids.shape[1], context.questions)
    if context.is_open:
        return [hit for answer in answers for hit in answer]
    return [all(answer) for answer in answers]


def _eviction(preset: str, scorer: str) -> nexusquant.EvictionConfig | None:
    eviction = nexusquant.PRESETS[preset].eviction
    # each rule as it was published: what is newest is theirs to weigh
    return eviction if scorer == OURS else replace(eviction, newest_share=0.0)


def _scores(name: str, reading: nexusquant.CompressedCache, seed: int) -> Sequence[torch.Tensor]:
    if name == OURS:
        return reading._evictor.reread.scores()
    if name == "random":
        generator = torch.Generator().manual_seed(seed)
        keys = reading.layers[0].recent[0]
        shape = (keys.shape[0], len(reading.waiting_tokens()))
        return [torch.rand(shape, generator=generator).to(keys.device) for _ in reading.layers]
    scorer = make_scorer(nexusquant.ScorerName(name))
    return [scorer.score(observation) for observation in observations(reading)]


if __name__ == "__main__":
    main()
