"""What every preset costs and saves on the embedded model: bytes, fidelity, speed.

A prefix is read into the cache, then the text after it is fed token by token the way it was
written, and every next-token distribution is compared with that of the uncompressed cache.
Prints a table and, as the last line, one JSON document.

    python benchmarks/presets.py --text FILE [--prefix 4096] [--tokens 128]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nexusquant
from nexusquant.engine import LoadedModel, load_embedded_model, load_model
from nexusquant.engine.prefill import forward


def main() -> None:
    """Measure every preset on one text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="plain text of prefix + tokens")
    parser.add_argument("--prefix", type=int, default=4096, help="tokens read into the cache")
    parser.add_argument("--tokens", type=int, default=128, help="tokens compared after it")
    parser.add_argument("--model", help="Hugging Face id or folder; default: the embedded model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    loaded = _load(options)
    text = options.text.read_text(encoding="utf-8")
    ids = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = ids[:, : options.prefix + options.tokens]
    if ids.shape[1] < options.prefix + options.tokens:
        parser.error(f"the text has only {ids.shape[1]} tokens")
    rows = _measure(loaded, ids, options.prefix)
    for row in rows:
        print(" ".join(f"{name}={value}" for name, value in row.items()))
    setting = {
        "benchmark": "presets",
        "model": loaded.name,
        "prefix_tokens": options.prefix,
        "compared_tokens": options.tokens,
        "device": str(loaded.device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps({**setting, "rows": rows}))


def _load(options: argparse.Namespace) -> LoadedModel:
    if options.model:
        return load_model(options.model, options.device)
    return load_embedded_model(options.data_dir, options.device)


def _measure(loaded: LoadedModel, ids: torch.Tensor, num_prefix: int) -> list[dict]:
    rows, reference = [], None
    profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
    for name, config in nexusquant.PRESETS.items():
        started = time.perf_counter()
        cache = nexusquant.prefill(loaded.model, ids[:, :num_prefix], config, profile=profile)
        prefilled = time.perf_counter()
        usage = cache.usage()
        log_probs = _teacher_forced(loaded, cache, ids[:, num_prefix:])
        decoded = time.perf_counter()
        reference = log_probs if reference is None else reference
        divergence = (reference.exp() * (reference - log_probs)).sum(dim=-1)
        agreement = (reference.argmax(dim=-1) == log_probs.argmax(dim=-1)).float()
        rows.append(
            {
                "preset": name,
                "stored_bytes": usage.stored_bytes,
                "uncompressed_bytes": usage.uncompressed_bytes,
                "compression_factor": round(usage.compression_factor, 2),
                "bits_per_value": round(usage.bits_per_value, 3),
                "kept_share": round(usage.kept_share, 3),
                "kl": round(float(divergence.mean()), 5),
                "top1_agreement": round(float(agreement.mean()), 4),
                "prefill_tok_s": round(num_prefix / (prefilled - started), 1),
                "decode_tok_s": round((ids.shape[1] - num_prefix) / (decoded - prefilled), 2),
            }
        )
    return rows


def _teacher_forced(
    loaded: LoadedModel, cache: nexusquant.CompressedCache, ids: torch.Tensor
) -> torch.Tensor:
    """Log-probabilities after each token. [num_tokens, vocabulary], float32 on the CPU."""
    steps = [
        forward(loaded.model, ids[:, index : index + 1].to(loaded.device), cache)
        for index in range(ids.shape[1])
    ]
    return torch.cat(steps).float().log_softmax(dim=-1).cpu()


if __name__ == "__main__":
    main()
