"""How much text a capped GPU holds, with and without compression, by what really fits.

A model of Llama-3.1-8B's shape with random weights in 4 bits (bitsandbytes) reads random tokens and
then answers. Three questions, each with a cap on what torch may take:

- where plain transformers (`DynamicCache`, chunks of 512 tokens) ends under the cap;
- whether the presets read and answer over their lengths under the same cap;
- whether they do in the memory that transformers takes to read and answer over 4,096 tokens.

    python benchmarks/memory.py [--cap-gib 8] [--layers 32] --out FILE
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from memory_plan import put_in_4_bits, random_ids, random_model
from transformers import DynamicCache, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nexusquant import PRESETS, ModelProfile
from nexusquant.cache import CompressedCache
from nexusquant.engine import build_profile, read_chunks
from nexusquant.engine.block_size import exact_span
from nexusquant.engine.prefill import forward

GIB = 2**30
LENGTHS = {"balanced": 65_536, "high": 40_960}
NUM_UNCOMPRESSED = 4096
CHUNK, NUM_NEW = 512, 16
MOST_TOKENS = 131_072


def main() -> None:
    """Ask the three questions and write the answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cap-gib", type=float, default=8.0)
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    model = random_model("8B", options.layers)
    profile = build_profile(model, token_ids=random_ids(model, 512))
    put_in_4_bits(model)
    rows = []
    cap = round(options.cap_gib * GIB)
    for row in _answers(model, profile, cap):
        print(json.dumps(row), flush=True)
        rows.append(row)
    setting = {
        "benchmark": "memory",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "layers": model.config.num_hidden_layers,
        "weight_bytes": torch.cuda.memory_allocated(),
    }
    if options.out:
        options.out.write_text(json.dumps({**setting, "rows": rows}, indent=1) + "\n")


def _answers(model: PreTrainedModel, profile: ModelProfile, cap: int) -> Iterator[dict]:
    plain = _read_plainly(model, NUM_UNCOMPRESSED)
    yield {"what": "uncompressed", **plain}
    yield {"what": "uncompressed, until full", "cap": cap, **_fill(model, cap)}
    for limit in (plain["peak"], cap):
        for preset, length in LENGTHS.items():
            yield {"what": preset, "cap": limit, **_read(model, profile, preset, length, limit)}


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
def _read_plainly(model: PreTrainedModel, num_tokens: int) -> dict:
    """A text as `generate` reads it: in one pass, into transformers' own cache."""
    ids = random_ids(model, num_tokens).cuda()
    with _measured() as row:
        cache = DynamicCache(config=model.config)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for _ in range(NUM_NEW):
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    return {"tokens": num_tokens, **row}


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


def _read(
    model: PreTrainedModel, profile: ModelProfile, preset: str, num_tokens: int, cap: int
) -> dict:
    """A text read, scored, thinned out and coded under a cap, and answered about."""
    ids = random_ids(model, num_tokens)
    with _measured(cap) as row:
        cache = CompressedCache(model, PRESETS[preset], profile)
        row["exact_span"] = exact_span(model, cache, num_tokens)
        for progress in read_chunks(model, ids, cache):
            row["last_progress"] = f"{type(progress).__name__} {progress.num_done}"
        for _ in range(NUM_NEW):
            forward(model, ids[:, :1].cuda(), cache)
        row["stored"] = cache.usage().stored_bytes
    del cache
    return {"tokens": num_tokens, **row}


if __name__ == "__main__":
    main()
