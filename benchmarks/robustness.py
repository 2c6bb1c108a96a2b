"""Whether the codes hold where others break: large key biases, and texts unlike the profile's.

biases: constant vectors are added to the keys of some layers before their rotation, as large biases
    of k_proj do in Qwen2.5. What 2-bit keys (values exact to 4 bits) cost the changed model is
    compared with what they cost the unchanged one, in each type of the cache. `own_kl` is what the
    type alone costs, without compression: the changed model in it against itself in float32;
    `total_kl` is what type and compression cost together, against the same.
attention: what another way to compute attention (transformers' "eager" in place of SDPA) costs the
    uncompressed model in the same type: no cache can be held to less.
transfer: a profile measured on one kind of text, used on another kind, against a profile that was
    measured on that kind.

    python benchmarks/robustness.py --text prose=FILE --text speech=FILE --text code=FILE
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fidelity_protocol import ExactReading, Method, measure, read_exactly  # noqa: E402
from recall import load_float32  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.engine import LoadedModel, load_model  # noqa: E402
from nexusquant.engine.default_model import default_model_dir  # noqa: E402
from nexusquant.engine.profiling import TOKENS_PER_TEXT  # noqa: E402

NORMS = (30, 300, 900)
DTYPES = ("float32", "bfloat16", "float16")
PLACES: dict[str, dict[int, float]] = {
    "every third layer": dict.fromkeys(range(0, 30, 3), 1.0),
    # in Qwen2.5-7B they are large there: 605 and 921, and 22 in the median of the others
    "first and last layer": {0: 0.66, 29: 1.0},
}
"""Layers and the share of the norm that each gets."""
ATTENTION = ("sdpa", "eager")
KEYS_ONLY = nexusquant.QuantConfig(key_bits=2, value_bits=4)
SAFE = nexusquant.PRESETS["safe"].quant


def main() -> None:
    """Measure both and write one JSON document."""
    options = _options()
    loaded = load_float32(options.data_dir, options.device)
    texts = {name: _ids(loaded, path) for name, path in options.text}
    sizes = {"prefix_tokens": options.prefix, "tokens": options.tokens}
    # what is not measured now stays as it was
    before = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
    out = {**before, "benchmark": "robustness"}
    if "biases" in options.what:
        out["biases"] = {"device": options.device, **sizes, "rows": _biases(texts, options)}
    if "attention" in options.what:
        out["attention"] = {"device": options.device, **sizes, "rows": _attention(texts, options)}
    if "transfer" in options.what:
        out["transfer"] = {**sizes, "rows": _transfer(loaded, texts, options)}
    _write(options.out, out)


def _write(path: Path, out: dict) -> None:
    """One row a line, so that a change can be read."""
    text = re.sub(
        r"\{\s*([^{}]*?)\s*\}",
        lambda row: "{" + " ".join(row[1].split()) + "}",
        json.dumps(out, indent=1),
    )
    path.write_text(text + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=lambda t: t.split("=", 1))
    add("--what", nargs="+", default=["biases", "attention", "transfer"])
    add("--prefix", type=int, default=1536)
    add("--tokens", type=int, default=256)
    add("--place", nargs="+", default=list(PLACES), choices=PLACES)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--norm", nargs="+", type=float, default=NORMS)
    add("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "robustness.json")
    add("--data-dir", type=Path, default=Path("data"))
    return parser.parse_args()


def _ids(loaded: LoadedModel, path: str) -> torch.Tensor:
    text = Path(path).read_text(encoding="utf-8")[:200_000]
    return loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]


def _biases(texts: dict[str, torch.Tensor], options: argparse.Namespace) -> list[dict]:
    folder = default_model_dir(options.data_dir)
    models = {name: load_model(folder, options.device, name) for name in DTYPES}
    rows = []
    for place, norm in _settings(options):
        exact = {}
        with _key_biases(models["float32"], place, norm):
            for text, ids in texts.items():
                exact[text] = _read(models["float32"], ids, options).log_probs
        for dtype in options.dtype:
            loaded = models[dtype]
            with _key_biases(loaded, place, norm):
                profile = nexusquant.build_profile(loaded.model, loaded.tokenizer)
                for text, ids in texts.items():
                    costs = _costs(loaded, _read(loaded, ids, options), exact[text], profile)
                    rows.append(
                        {"text": text, "dtype": dtype, "place": place, "norm": norm, **costs}
                    )
                    print(rows[-1], flush=True)
    return rows


def _settings(options: argparse.Namespace) -> list[tuple[str, float]]:
    return [("none", 0), *((place, norm) for place in options.place for norm in options.norm)]


def _attention(texts: dict[str, torch.Tensor], options: argparse.Namespace) -> list[dict]:
    rows = []
    for dtype in options.dtype:
        loaded = load_model(default_model_dir(options.data_dir), options.device, dtype)
        for place, norm in _settings(options):
            for text, ids in texts.items():
                with _key_biases(loaded, place, norm):
                    one, other = (_log_probs_by(loaded, ids, name, options) for name in ATTENTION)
                kl = round(_divergence(one, other), 6)
                rows.append({"text": text, "dtype": dtype, "place": place, "norm": norm, "kl": kl})
                print(rows[-1], flush=True)
    return rows


def _log_probs_by(
    loaded: LoadedModel, ids: torch.Tensor, attention: str, options: argparse.Namespace
) -> torch.Tensor:
    loaded.model.set_attn_implementation(attention)
    return _read(loaded, ids, options).log_probs


def _divergence(expected: torch.Tensor, log_probs: torch.Tensor) -> float:
    return float((expected.exp() * (expected - log_probs)).sum(dim=-1).mean())


def _costs(
    loaded: LoadedModel,
    reading: ExactReading,
    exact: torch.Tensor,
    profile: nexusquant.ModelProfile,
) -> dict[str, float]:
    """What the compression costs, what the type costs, and both together."""
    total = _kl(loaded, replace(reading, log_probs=exact), KEYS_ONLY, profile)
    costs = {
        "kl": _kl(loaded, reading, KEYS_ONLY, profile),
        "own_kl": _divergence(exact, reading.log_probs),
        "total_kl": total,
    }
    return {name: round(cost, 6) for name, cost in costs.items()}


@contextmanager
def _key_biases(loaded: LoadedModel, place: str, norm: float) -> Iterator[None]:
    generator = torch.Generator().manual_seed(0)
    hooks = []
    for index, share in PLACES.get(place, {}).items():
        projection = loaded.model.model.layers[index].self_attn.k_proj
        # the slowest pairs of a head turn little, as the large biases of Qwen2.5 do
        bias = torch.zeros(projection.out_features // 64, 2, 32)
        bias[:, :, -4:] = torch.randn(bias[:, :, -4:].shape, generator=generator)
        bias = bias.flatten(1)
        bias = (share * norm * bias / bias.norm(dim=1, keepdim=True)).flatten()
        hooks.append(
            projection.register_forward_hook(
                lambda _module, _inputs, keys, bias=bias: keys + bias.to(keys)
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
    profile: nexusquant.ModelProfile,
) -> float:
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
