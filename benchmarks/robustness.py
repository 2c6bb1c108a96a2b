"""Whether the codes hold where others break: large key biases, and texts unlike the profile's.

biases: constant vectors are added to the keys of every third layer before their rotation, as large
    biases of k_proj do in Qwen2.5. What 2-bit keys (values exact to 4 bits) cost the changed model
    is compared with what they cost the unchanged one, in each type of the cache. `own_kl` is what
    the type alone costs, without compression: the changed model in it against itself in float32.
transfer: a profile measured on one kind of text, used on another kind, against a profile that was
    measured on that kind.

    python benchmarks/robustness.py --text prose=FILE --text speech=FILE --text code=FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fidelity_protocol import ExactReading, Method, measure, read_exactly  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.engine import LoadedModel, load_embedded_model  # noqa: E402
from nexusquant.engine.profiling import TOKENS_PER_TEXT  # noqa: E402

NORMS = (30, 300, 900)
DTYPES = ("float32", "bfloat16", "float16")
BIASED_LAYERS = range(0, 30, 3)
KEYS_ONLY = nexusquant.QuantConfig(key_bits=2, value_bits=4)
SAFE = nexusquant.PRESETS["safe"].quant


def main() -> None:
    """Measure both and print one JSON document."""
    options = _options()
    loaded = load_embedded_model(options.data_dir, "cpu")
    texts = {name: _ids(loaded, path) for name, path in options.text}
    sizes = {"prefix_tokens": options.prefix, "tokens": options.tokens}
    # what is not measured now stays as it was
    before = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
    out = {**before, "benchmark": "robustness"}
    if "biases" in options.what:
        name, ids = next(iter(texts.items()))
        out["biases"] = {"text": name, **sizes, "rows": _biases(loaded, ids, options)}
    if "transfer" in options.what:
        out["transfer"] = {**sizes, "rows": _transfer(loaded, texts, options)}
    options.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=lambda t: t.split("=", 1))
    add("--what", nargs="+", default=["biases", "transfer"])
    add("--prefix", type=int, default=1536)
    add("--tokens", type=int, default=256)
    add("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "robustness.json")
    add("--data-dir", type=Path, default=Path("data"))
    return parser.parse_args()


def _ids(loaded: LoadedModel, path: str) -> torch.Tensor:
    text = Path(path).read_text(encoding="utf-8")[:200_000]
    return loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]


def _biases(loaded: LoadedModel, ids: torch.Tensor, options: argparse.Namespace) -> list[dict]:
    rows, exact = [], {}
    for dtype in options.dtype:
        loaded.model.to(getattr(torch, dtype))
        for norm in (0, *NORMS):
            with _key_biases(loaded, norm):
                reading = _read(loaded, ids, options)
                kl = _kl(loaded, reading, KEYS_ONLY, None)
            row = {"dtype": dtype, "norm": norm, "kl": round(kl, 6)}
            expected = exact.setdefault(norm, reading.log_probs)
            own = (expected.exp() * (expected - reading.log_probs)).sum(dim=-1).mean()
            rows.append(row | {"own_kl": round(float(own), 6)})
            print(rows[-1], flush=True)
    loaded.model.to(torch.float32)
    return rows


@contextmanager
def _key_biases(loaded: LoadedModel, norm: float) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    hooks = []
    for index in BIASED_LAYERS:
        projection = loaded.model.model.layers[index].self_attn.k_proj
        # the slowest pairs of a head turn little, as the large biases of Qwen2.5 do
        bias = torch.zeros(projection.out_features // 64, 2, 32)
        bias[:, :, -4:] = torch.randn(bias[:, :, -4:].shape, generator=generator)
        bias = bias.flatten(1)
        bias = (norm * bias / bias.norm(dim=1, keepdim=True)).flatten()
        hooks.append(
            projection.register_forward_hook(
                lambda _module, _inputs, keys, bias=bias: keys + bias.to(keys.dtype)
            )
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _transfer(
    loaded: LoadedModel, texts: dict[str, torch.Tensor], options: argparse.Namespace
) -> list[dict]:
    rows = []
    length = 3 * TOKENS_PER_TEXT
    profiles = {
        # the end of each file: the beginning is what is measured on
        name: nexusquant.build_profile(loaded.model, token_ids=ids[:, -length:])
        for name, ids in texts.items()
    }
    for measured, ids in texts.items():
        for fitted, profile in profiles.items():
            kl = _kl(loaded, _read(loaded, ids, options), SAFE, profile)
            rows.append({"profile_of": fitted, "measured_on": measured, "kl": round(kl, 6)})
            print(rows[-1], flush=True)
    return rows


def _read(loaded: LoadedModel, ids: torch.Tensor, options: argparse.Namespace) -> ExactReading:
    num = options.prefix + options.tokens + 1
    return read_exactly(loaded.model, ids[:, :num], options.prefix, 64)


def _kl(
    loaded: LoadedModel,
    reading: ExactReading,
    quant: nexusquant.QuantConfig,
    profile: nexusquant.ModelProfile | None,
) -> float:
    profile = profile or nexusquant.build_profile(loaded.model, loaded.tokenizer)
    config = nexusquant.CompressionConfig(quant=quant)
    method = Method(
        "ours",
        "ours",
        lambda model, reading: nexusquant.prefill(
            model, reading.prefix_ids, config, profile=profile
        ),
        nexusquant.CompressedCache.finish_prefill,
    )
    return measure(loaded.model, method, reading)["kl"]


if __name__ == "__main__":
    main()
