"""Reading a text and answering on this GPU: time and memory, with and without compression.

The model has the layers of Llama-3.1-8B with random weights in bfloat16, fewer of them if asked.
`DynamicCache` with SDPA beside our presets. The last line is one JSON document.

    python benchmarks/generation.py [--layers 32] [--tokens 8192] [--new-tokens 32]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, Cache, DynamicCache, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memory_plan import SHAPES

import nexusquant
from nexusquant.engine import build_profile

PRESETS = ("safe", "high", "balanced", "max")
EXACT_CHUNK = 512
REPEATS = 3
MOST_TOKENS = 131_072


def main() -> None:
    """Measure each cache in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192])
    parser.add_argument("--new-tokens", type=int, default=32)
    options = parser.parse_args()
    model = random_model(options.layers)
    profile = build_profile(model, token_ids=torch.randint(0, 128_000, (1, 1024)))
    rows = []
    for num_tokens in options.tokens:
        ids = torch.randint(0, 128_000, (1, num_tokens), device="cuda")
        readers = {"DynamicCache": partial(read_exactly, model, ids)}
        for name in PRESETS:
            config = nexusquant.PRESETS[name]
            readers[name] = partial(nexusquant.prefill, model, ids, config, profile=profile)
        for name, read in readers.items():
            rows.append(measure(model, name, read, num_tokens, options.new_tokens))
            print(rows[-1], flush=True)
    setting = {
        "benchmark": "generation",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "layers": options.layers,
    }
    print(json.dumps({**setting, "rows": rows}))


def random_model(num_layers: int) -> PreTrainedModel:
    """A model of Llama-3.1-8B's shape."""
    config = copy.deepcopy(SHAPES["8B"])
    config.num_hidden_layers, config.max_position_embeddings = num_layers, MOST_TOKENS
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


@torch.no_grad()
def read_exactly(model: PreTrainedModel, ids: torch.Tensor) -> DynamicCache:
    """A text in transformers' own cache."""
    cache = DynamicCache(config=model.config)
    for part in ids.split(EXACT_CHUNK, dim=1):
        model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def measure(
    model: PreTrainedModel, name: str, read: Callable[[], Cache], num_tokens: int, num_new: int
) -> dict:
    """Seconds to read, tokens a second after that, and bytes: held, and at the peak."""
    # what runs first compiles kernels
    answer(model, read(), 4)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    cache = read()
    torch.cuda.synchronize()
    read_s = time.perf_counter() - started
    held = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    speeds = [answer(model, cache, num_new) for _ in range(REPEATS)]
    return {
        "cache": name,
        "num_tokens": num_tokens,
        "read_s": round(read_s, 3),
        "decode_tok_s": round(statistics.median(speeds), 2),
        "held_bytes": held,
        "peak_bytes": peak,
    }


@torch.no_grad()
def answer(model: PreTrainedModel, cache: Cache, num_new: int) -> float:
    """Tokens a second, one after the other, as `generate` makes them."""
    token = torch.zeros(1, 1, dtype=torch.int64, device="cuda")
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(num_new):
        output = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = output.logits[:, -1:].argmax(dim=-1)
    torch.cuda.synchronize()
    return num_new / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
