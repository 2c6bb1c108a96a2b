"""Reading a long text and answering about it on this GPU, with and without compression.

The model has the layers of Llama-3.1-8B with random weights in bfloat16, fewer of them if asked.
Rows of one length answer after the same number of tokens: transformers' own `generate()` with
`DynamicCache` and SDPA; each preset through the engine's decoder, as a CUDA graph and kernel by
kernel. The share of the roofline is the time that reading the weights and the cache once takes at
the measured copy bandwidth, over the time of a token: of a whole answer, whose first steps go
kernel by kernel until one is recorded, and of the steady rest. Beside that, the seconds that
reading the prompt takes: transformers in one pass; presets until everything is coded, the second
reading apart. The second of two is told, since the first one builds kernels. With `--fill` the
texts are random keys and values instead of a prompt that the model reads: the bytes and the kernels
are the same. The last line is one JSON document.

    python benchmarks/generation.py [--layers 32] [--tokens 2048 32768] [--new-tokens 128] [--fill]
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from memory_plan import SHAPES

import nexusquant
from nexusquant.cache import CompressedCache, ModelProfile
from nexusquant.config import CompressionConfig, SamplingParams
from nexusquant.engine import PrefillProgress, RereadProgress, build_profile
from nexusquant.engine.decoding import Decoder, RecordingTrial
from nexusquant.engine.prefill import forward
from nexusquant.engine.sampling import Sampler

PRESETS = ("safe", "high", "balanced", "max")
NUM_READINGS = 2
REPEATS = 3
WARM_TOKENS, PLAIN_TOKENS = 8, 8
STEADY_FROM = 16
"""Tokens of an answer after which a step is recorded for certain, and others are replayed."""
MOST_TOKENS = 131_072
COPY_BYTES = 2**31
VOCABULARY = 128_000


def main() -> None:
    """Measure each cache in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 32_768])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--fill", action="store_true")
    options = parser.parse_args()
    if options.new_tokens < 2 * STEADY_FROM:
        parser.error(f"answers need {2 * STEADY_FROM} tokens or more")
    model = random_model(options.layers)
    bandwidth = copy_bandwidth()
    profile = build_profile(model, token_ids=torch.randint(0, VOCABULARY, (1, 1024)))
    rows = []
    for num_tokens in options.tokens:
        exact = measure_exact(model, num_tokens, options)
        measures = [partial(measure_compressed, model, name, profile) for name in options.presets]
        for row in (exact, *(measure(num_tokens, options) for measure in measures)):
            row |= roofline(model, row, bandwidth)
            row["times_dynamic"] = round(row["decode_tok_s"] / exact["decode_tok_s"], 2)
            if not options.fill:
                row["times_read_s"] = round(row["read_s"] / exact["read_s"], 2)
            rows.append(row)
            print(row, flush=True)
    setting = {
        "benchmark": "generation",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "layers": options.layers,
        "new_tokens": options.new_tokens,
        "is_filled": options.fill,
        "copy_gb_s": round(bandwidth / 1e9, 1),
    }
    print(json.dumps({**setting, "rows": rows}))


def random_model(num_layers: int) -> PreTrainedModel:
    """A model of Llama-3.1-8B's shape."""
    config = copy.deepcopy(SHAPES["8B"])
    config.num_hidden_layers, config.max_position_embeddings = num_layers, MOST_TOKENS
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    # an answer is as long as it was asked for
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    return model


def copy_bandwidth() -> float:
    """Bytes a second that the GPU reads and writes in a large copy."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = [timed(lambda: target.copy_(source)) for _ in range(5)]
    return 2 * COPY_BYTES / statistics.median(seconds)


def roofline(model: PreTrainedModel, row: dict, bandwidth: float) -> dict:
    """How near a row comes to reading everything once. Embeddings are looked up, not read."""
    head = model.get_output_embeddings().weight
    inner = model.get_decoder().layers.parameters()
    num_bytes = head.nbytes + sum(weight.nbytes for weight in inner) + row["cache_bytes"]
    names = {"decode_tok_s": "share_of_roofline", "steady_tok_s": "steady_share_of_roofline"}
    return {
        share: round(row[speed] * num_bytes / bandwidth, 3)
        for speed, share in names.items()
        if speed in row
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds of `work`, the GPU's included."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def speeds(answer: Callable[[int], object], num_new: int) -> dict:
    """Tokens a second: the median and the range. What runs first compiles kernels."""
    cold_s = timed(lambda: answer(WARM_TOKENS))
    found = [num_new / timed(lambda: answer(num_new)) for _ in range(REPEATS)]
    return {
        "cold_s": round(cold_s, 1),
        "decode_tok_s": round(statistics.median(found), 2),
        "range_tok_s": [round(min(found), 2), round(max(found), 2)],
    }


def random_vectors(model: PreTrainedModel, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one layer. [1, H_kv, T, D] each."""
    config = model.config
    shape = (1, config.num_key_value_heads, num_tokens, config.head_dim)
    return tuple(torch.randn(shape, device="cuda", dtype=model.dtype) for _ in range(2))


@torch.no_grad()
def measure_exact(model: PreTrainedModel, num_tokens: int, options: argparse.Namespace) -> dict:
    """`generate()` of transformers with its own cache."""
    if options.fill:
        cache, read_s = DynamicCache(config=model.config), None
        for index in range(options.layers):
            cache.update(*random_vectors(model, num_tokens), index)
    else:
        ids = torch.randint(0, VOCABULARY, (1, num_tokens), device="cuda")
        for _ in range(NUM_READINGS):
            cache = DynamicCache(config=model.config)
            given = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            read_s = timed(partial(model, input_ids=ids, **given))
    token = torch.zeros(1, 1, dtype=torch.int64, device="cuda")

    def answer(num_new: int) -> None:
        # a negative number says how many go
        cache.crop(num_tokens - cache.get_seq_length())
        mask = torch.ones(1, num_tokens + 1, dtype=torch.int64, device="cuda")
        length = {"max_new_tokens": num_new, "do_sample": False}
        model.generate(token, attention_mask=mask, past_key_values=cache, **length)

    found = speeds(answer, options.new_tokens)
    return {
        "cache": "DynamicCache",
        "num_tokens": num_tokens,
        "read_s": read_s and round(read_s, 3),
        **found,
        "cache_bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers),
    }


@torch.no_grad()
def measure_compressed(
    model: PreTrainedModel,
    name: str,
    profile: ModelProfile,
    num_tokens: int,
    options: argparse.Namespace,
) -> dict:
    """The engine's decoder over a compressed cache: as a graph, and kernel by kernel."""
    gc.collect()
    torch.cuda.empty_cache()
    config = nexusquant.PRESETS[name]
    reading = {}
    if options.fill:
        cache = filled(model, config, profile, num_tokens)
    else:
        for _ in range(NUM_READINGS):
            cache, reading = timed_reading(model, config, profile, num_tokens)
    mark = cache.mark()
    token = torch.zeros(1, 1, dtype=torch.int64, device="cuda")
    trials = {"graph": RecordingTrial(), "plain": RecordingTrial("for comparison")}
    problems, steady = {}, []

    def answer(num_new: int, kind: str) -> None:
        cache.rewind(mark)
        logits = forward(model, token, cache)
        params = SamplingParams(temperature=0, max_new_tokens=num_new)
        sampler = Sampler(params, [0], logits.device)
        decoder = Decoder(model, cache, sampler, logits, num_new, trials[kind])
        given = []
        for _ in range(num_new):
            decoder.next_id()
            given.append(time.perf_counter())
        if kind == "graph" and num_new == options.new_tokens:
            steady.append((num_new - 1 - STEADY_FROM) / (given[-1] - given[STEADY_FROM]))
        decoder.close()
        problems[kind] = decoder.problem

    found = {
        "graph": speeds(partial(answer, kind="graph"), options.new_tokens),
        "plain": speeds(partial(answer, kind="plain"), PLAIN_TOKENS),
    }
    return {
        "cache": name,
        "num_tokens": num_tokens,
        **reading,
        **found["graph"],
        "steady_tok_s": round(statistics.median(steady), 2),
        "plain_tok_s": found["plain"]["decode_tok_s"],
        "graph_problem": problems["graph"],
        "cache_bytes": cache.usage().stored_bytes,
    }


def timed_reading(
    model: PreTrainedModel, config: CompressionConfig, profile: ModelProfile, num_tokens: int
) -> tuple[CompressedCache, dict[str, float]]:
    """A cache with a text in it; the seconds of reading and coding, and of the second reading."""
    ids = torch.randint(0, VOCABULARY, (1, num_tokens), device="cuda")
    torch.cuda.synchronize()
    started = last = time.perf_counter()
    reread_s = 0.0

    def note(event: PrefillProgress | RereadProgress) -> None:
        nonlocal last, reread_s
        now = time.perf_counter()
        reread_s += (now - last) * isinstance(event, RereadProgress)
        last = now

    cache = nexusquant.prefill(model, ids, config, profile=profile, on_progress=note)
    torch.cuda.synchronize()
    read_s = time.perf_counter() - started - reread_s
    return cache, {"read_s": round(read_s, 3), "reread_s": round(reread_s, 3)}


def filled(
    model: PreTrainedModel, config: CompressionConfig, profile: ModelProfile, num_tokens: int
) -> CompressedCache:
    """A compressed cache of random keys and values, of which random ones are kept."""
    cache = CompressedCache(model, config, profile)
    num_free = num_tokens - config.num_sink_tokens - config.recent_window
    for layer in cache.layers:
        keys, values = random_vectors(model, num_tokens)
        layer.update(keys, values)
        kept = None
        if config.eviction is not None:
            shape = (keys.shape[1], num_free)
            kept = torch.rand(shape, device="cuda") < config.eviction.keep_ratio
        layer.commit(kept)
    return cache


if __name__ == "__main__":
    main()
