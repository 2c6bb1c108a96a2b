"""Holds the memory plan to the peak that a GPU really sees, for models of real shapes.

Weights are random: memory does not care. Layers can be left out (--layers), which makes everything
but weights and keys and values weigh more. Errors are told of the whole, and of what is there
besides the weights. 4-bit weights need bitsandbytes.

    python benchmarks/memory_plan.py --out FILE
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import json
import sys
import time
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nexusquant import PRESETS, ModelProfile
from nexusquant.cache import CompressedCache
from nexusquant.engine import Precision, build_profile, plan_memory, read_chunks
from nexusquant.engine.memory import WORKSPACE_BYTES
from nexusquant.engine.prefill import forward

PRECISIONS = ["bfloat16", "nf4"]

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

MOST_TOKENS = 131_072


def config_of(shape: str, num_layers: int | None = None) -> PreTrainedConfig:
    """The config of one of the shapes; None keeps all of its layers."""
    config = copy.deepcopy(SHAPES[shape])
    config.max_position_embeddings = MOST_TOKENS
    config.num_hidden_layers = num_layers or config.num_hidden_layers
    # a list of the kinds of all layers, where a config has one, was made for the full number
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[: config.num_hidden_layers]
    return config


def random_model(shape: str, num_layers: int | None = None) -> PreTrainedModel:
    """A model of one of the shapes on the GPU, in bfloat16; None keeps all of its layers."""
    config = config_of(shape, num_layers)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def put_in_4_bits(model: PreTrainedModel) -> None:
    """Quantize the weights of linear layers as `from_pretrained` does, but not the last one's."""
    import bitsandbytes

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, torch.nn.Linear) or layer is head:
                continue
            narrow = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                device="meta",
            )
            options = {"requires_grad": False, "quant_type": "nf4", "compress_statistics": True}
            narrow.weight = bitsandbytes.nn.Params4bit(layer.weight.data, **options).to("cuda")
            narrow.bias = layer.bias
            setattr(parent, name, narrow)
            layer.weight = None
    model.is_loaded_in_4bit = True


def measure(model: PreTrainedModel, profile: ModelProfile, preset: str, length: int) -> dict:
    """Bytes planned and bytes seen for one text, tensors only."""
    precision = Precision.NF4 if getattr(model, "is_loaded_in_4bit", False) else Precision.BFLOAT16
    plan = plan_memory(model.config, PRESETS[preset], precision)
    seen = _peak(model, profile, preset, random_ids(model, length))
    planned = plan.weight_bytes + plan.cache_peak_bytes(length) + WORKSPACE_BYTES
    besides = plan.cache_peak_bytes(length) / (seen["peak"] - seen["before"])
    return {
        "precision": str(precision),
        "layers": model.config.num_hidden_layers,
        "preset": preset,
        "tokens": length,
        "weights": plan.weight_bytes,
        "planned": planned,
        **seen,
        "error": round(planned / seen["peak"] - 1, 4),
        "error_besides_weights": round(besides - 1, 4),
    }


def random_ids(model: PreTrainedModel, length: int) -> torch.Tensor:
    """A text of random tokens. [1, length]."""
    generator = torch.Generator().manual_seed(length)
    return torch.randint(10, model.config.vocab_size, (1, length), generator=generator)


def _peak(
    model: PreTrainedModel, profile: ModelProfile, preset: str, ids: torch.Tensor
) -> dict[str, float]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    cache = CompressedCache(model, PRESETS[preset], profile)
    for _ in read_chunks(model, ids, cache):
        pass
    seconds = time.perf_counter() - started
    held = torch.cuda.memory_allocated() - before
    forward(model, ids[:, :1].cuda(), cache)
    peak = torch.cuda.max_memory_allocated()
    return {"peak": peak, "held": held, "before": before, "seconds": round(seconds, 2)}


def main() -> None:
    """Measure what was asked for and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--layers", type=int, help="of each model; default: all")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192, 32_768, 65_536])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["safe", "balanced"])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    records = []
    for shape, precision in itertools.product(options.shapes, options.precisions):
        model = random_model(shape, options.layers)
        profile = build_profile(model, token_ids=random_ids(model, 512))
        if precision == "nf4":
            put_in_4_bits(model)
        for preset, length in itertools.product(options.presets, options.tokens):
            records.append({"shape": shape, **measure(model, profile, preset, length)})
            print(json.dumps(records[-1]), flush=True)
        del model
    if options.out:
        setting = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        document = {"benchmark": "memory_plan", **setting, "rows": records}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
