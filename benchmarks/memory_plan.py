"""Holds the memory plan to the peak that a GPU really sees, for models of real shapes.

Weights are random: memory does not care. `python benchmarks/memory_plan.py --out FILE` writes JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nexusquant import PRESETS
from nexusquant.cache import CompressedCache
from nexusquant.engine import Precision, build_profile, plan_memory, read_chunks
from nexusquant.engine.prefill import forward

SHAPES: dict[str, PreTrainedConfig] = {
    "0.5B": Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "3B": LlamaConfig(
        vocab_size=128_256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    ),
    "8B": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    ),
}


def measure(shape: str, lengths: list[int], presets: list[str]) -> Iterator[dict]:
    """One record for each length and preset: bytes planned and bytes seen, tensors only."""
    config = SHAPES[shape]
    config.max_position_embeddings = 2 * max(lengths)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    profile = build_profile(model, token_ids=_ids(config, 512))
    for preset in presets:
        plan = plan_memory(config, PRESETS[preset], Precision.BFLOAT16)
        for length in lengths:
            seen = _peak(model, profile, preset, _ids(config, length))
            planned = plan.needed_bytes(length) - plan.context_bytes
            yield {
                "shape": shape,
                "preset": preset,
                "tokens": length,
                "weights": plan.weight_bytes,
                "planned": planned,
                **seen,
                "error": planned / seen["peak"] - 1,
            }


def _ids(config: PreTrainedConfig, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(10, config.vocab_size, (1, length), generator=generator)


def _peak(model, profile, preset: str, ids: torch.Tensor) -> dict[str, int]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cache = CompressedCache(model, PRESETS[preset], profile)
    for _ in read_chunks(model, ids, cache):
        pass
    held = torch.cuda.memory_allocated() - before
    forward(model, ids[:, :1].cuda(), cache)
    return {"peak": torch.cuda.max_memory_allocated(), "held": held, "before": before}


def main() -> None:
    """Measure what was asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192, 32_768, 65_536])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["safe", "balanced"])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    records = []
    for shape in options.shapes:
        for record in measure(shape, options.tokens, options.presets):
            print(json.dumps(record), flush=True)
            records.append(record)
        gc.collect()
    if options.out:
        options.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
