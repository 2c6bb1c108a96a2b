"""How much text a capped GPU holds, with and without compression, by what really fits.

A model of Llama-3.1-8B's shape with random weights in 4 bits (bitsandbytes) reads random tokens and
then answers. Questions, of which --ask takes some; a cap is one on what torch may take:

- same: the least cap under which plain transformers (`DynamicCache`) reads 4,096 tokens in one pass
  and answers, and whether the presets read and answer over their lengths under it;
- fill: where plain transformers, in chunks of 512 tokens, ends under --cap-gib;
- cap: whether the presets read and answer over their lengths under --cap-gib;
- promised: whether the longest text that the plan promises under --cap-gib is read and answered
  about, and what it says of one page more;
- reading: what reading 131,072 tokens takes besides weights and what is stored in the end, no cap.

The app lets torch's memory grow in place on Linux; so does this with the same variable:

    PYTORCH_ALLOC_CONF=expandable_segments:True python benchmarks/memory.py [--ask same] --out FILE
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from memory_plan import put_in_4_bits, random_ids, random_model
from transformers import DynamicCache, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nexusquant import PRESETS, ModelProfile
from nexusquant.cache import CompressedCache
from nexusquant.config import PAGE_SIZE
from nexusquant.engine import (
    MemoryPlan,
    Precision,
    build_profile,
    plan_memory,
    read_chunks,
    refusal,
)
from nexusquant.engine.memory import DRIVER_BYTES
from nexusquant.engine.prefill import forward
from nexusquant.engine.reading_sizes import reading_sizes

MIB, GIB = 2**20, 2**30
QUESTIONS = ("same", "fill", "cap", "promised", "reading")
LENGTHS = {"balanced": 65_536, "high": 40_960}
NUM_UNCOMPRESSED = 4096
CHUNK, NUM_NEW = 512, 16
MOST_TOKENS = 131_072
MOST_READING_BYTES = 3 * GIB // 2
CAP_STEP = 32 * MIB
_SECONDS_BETWEEN_LINES = 30


def main() -> None:
    """Ask what was chosen and write the answers."""
    options = _options()
    model = random_model("8B", options.layers)
    profile = build_profile(model, token_ids=random_ids(model, 512))
    put_in_4_bits(model)
    rows = []
    for row in _answers(model, profile, options):
        print(json.dumps(row), flush=True)
        rows.append(row)
    setting = {
        "benchmark": "memory",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "allocator": os.environ.get("PYTORCH_ALLOC_CONF", ""),
        "layers": model.config.num_hidden_layers,
        **_held_bytes(model),
    }
    print(json.dumps(setting), flush=True)
    if options.out:
        options.out.write_text(json.dumps({**setting, "rows": rows}, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ask", nargs="+", choices=QUESTIONS, default=QUESTIONS)
    parser.add_argument("--presets", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--promised", nargs="+", choices=PRESETS, default=["balanced"])
    parser.add_argument("--cap-gib", type=float, default=8.0)
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    return parser.parse_args()


def _answers(
    model: PreTrainedModel, profile: ModelProfile, options: argparse.Namespace
) -> Iterator[dict]:
    asked, cap, caps = options.ask, round(options.cap_gib * GIB), []
    if "same" in asked:
        plain = _read_plainly(model)
        yield {"what": "uncompressed", **plain}
        caps.append(_least_cap(model, plain))
        yield {"what": "uncompressed, least cap", "cap": caps[0]}
    if "fill" in asked:
        yield {"what": "uncompressed, until full", "cap": cap, **_fill(model, cap)}
    caps += [cap] * ("cap" in asked)
    for limit in caps:
        for preset in options.presets:
            read = _read(model, profile, preset, LENGTHS[preset], limit)
            yield {"what": preset, "cap": limit, **read}
    if "promised" in asked:
        for preset in options.promised:
            read = _read_promised(model, profile, preset, cap)
            yield {"what": f"{preset}, promised", "cap": cap, **read}
    if "reading" in asked:
        yield {"what": "balanced, reading", **_read_freely(model, profile)}


def _held_bytes(model: PreTrainedModel) -> dict[str, int]:
    """What is there without a cache: counted weights, workspaces of matrix products, all else."""
    gc.collect()
    held = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()
    workspaces = held - torch.cuda.memory_allocated()
    weights = _plan(model, "off").weight_bytes
    others = held - workspaces - weights
    return {"weight_bytes": weights, "workspace_bytes": workspaces, "other_bytes": others}


def _plan(model: PreTrainedModel, preset: str) -> MemoryPlan:
    return plan_memory(model.config, PRESETS[preset], Precision.NF4)


@contextmanager
def _measured(cap: int | None = None) -> Iterator[dict]:
    """Bytes at most while this lasts, under a cap on all that torch may take."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    _, total = torch.cuda.mem_get_info()
    if cap is not None:
        torch.cuda.set_per_process_memory_fraction(cap / total)
    row: dict[str, object] = {}
    started = time.perf_counter()
    try:
        yield row
        torch.cuda.synchronize()
        row["fits"] = True
    except torch.OutOfMemoryError:
        row["fits"] = False
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        row["seconds"] = round(time.perf_counter() - started, 1)
        row["peak"] = torch.cuda.max_memory_allocated()
        row["reserved"] = torch.cuda.max_memory_reserved()


@torch.no_grad()
def _read_plainly(model: PreTrainedModel, cap: int | None = None) -> dict:
    """A text as `generate` reads it: in one pass, into transformers' own cache."""
    ids = random_ids(model, NUM_UNCOMPRESSED).cuda()
    with _measured(cap) as row:
        cache = DynamicCache(config=model.config)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for _ in range(NUM_NEW):
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    return {"tokens": NUM_UNCOMPRESSED, **row}


def _least_cap(model: PreTrainedModel, plain: dict) -> int:
    """The least cap under which the same text is read again; to `CAP_STEP`."""
    return least_cap(
        lambda cap: _read_plainly(model, cap)["fits"], plain["peak"], plain["reserved"]
    )


def least_cap(fits: Callable[[int], bool], too_few: int, enough: int) -> int:
    """Bisect between bytes that may be too few and bytes that are enough; to `CAP_STEP`.

    Args:
        fits: Whether so many bytes are enough.
        too_few: A lower bound; less than this cannot be enough.
        enough: What was taken where nothing was short.
    """
    if fits(too_few):
        return too_few
    while enough - too_few > CAP_STEP:
        middle = (too_few + enough) // 2
        if fits(middle):
            enough = middle
        else:
            too_few = middle
    return enough


@torch.no_grad()
def _fill(model: PreTrainedModel, cap: int) -> dict:
    """Chunks into transformers' own cache until the cap is reached."""
    ids = random_ids(model, MOST_TOKENS).cuda()
    num_read = 0
    with _measured(cap) as row:
        cache = DynamicCache(config=model.config)
        for part in ids.split(CHUNK, dim=1):
            model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
            num_read += part.shape[1]
    del cache
    return {"tokens": num_read, **row}


def _read_promised(model: PreTrainedModel, profile: ModelProfile, preset: str, cap: int) -> dict:
    """The longest text that the plan promises to a card with a cap."""
    plan, free = _plan(model, preset), cap + DRIVER_BYTES
    promised = plan.tokens_that_fit(free)
    said = {"refusal": refusal(plan, promised + PAGE_SIZE, free)}
    print(json.dumps({"promised": promised, **said}), flush=True)
    return {**_read(model, profile, preset, promised, cap), **said}


def _read_freely(model: PreTrainedModel, profile: ModelProfile) -> dict:
    """A long text without a cap: what there is besides weights and what stays."""
    gc.collect()
    before = torch.cuda.memory_allocated()
    row = _read(model, profile, "balanced", MOST_TOKENS, None)
    besides = row["peak"] - before - row["stored"]
    return {**row, "besides": besides, "at_most": MOST_READING_BYTES}


def _read(
    model: PreTrainedModel, profile: ModelProfile, preset: str, num_tokens: int, cap: int | None
) -> dict:
    """A text read, scored, thinned out and coded under a cap, and answered about."""
    ids = random_ids(model, num_tokens)
    with _measured(cap) as row:
        cache = CompressedCache(model, PRESETS[preset], profile)
        row |= reading_sizes(model, cache, num_tokens)._asdict()
        last_line = time.perf_counter()
        for progress in read_chunks(model, ids, cache):
            row["last_progress"] = f"{type(progress).__name__} {progress.num_done}"
            if time.perf_counter() - last_line > _SECONDS_BETWEEN_LINES:
                # a run that is broken off has still said how far it came
                last_line = time.perf_counter()
                print(row["last_progress"], torch.cuda.max_memory_allocated(), flush=True)
        for _ in range(NUM_NEW):
            forward(model, ids[:, :1].cuda(), cache)
        row["stored"] = cache.usage().stored_bytes
    del cache
    return {"tokens": num_tokens, **row}


if __name__ == "__main__":
    main()
