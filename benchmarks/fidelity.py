"""What a compressed cache does to the next word, ours and those of others, at measured bytes.

A prefix is read exactly and put into the cache; the bytes of the tensors that the cache then
holds are counted. The text after it is fed in chunks the way it was written, and every
distribution of the next token is compared with that of the uncompressed model. By default each
cache goes on coding as it would while a text is written: what leaves its window of exact tokens
is coded too. --keep-new-exact codes the prefix only.

Prints a table and writes one JSON document; rows that are in it already are replaced, others are
kept, so that a run can be cut in pieces with --only. `plot_fidelity.py` draws it.

    python benchmarks/fidelity.py --text prose=FILE --text speech=FILE

The caches of transformers need `pip install optimum-quanto hqq ninja`; without them their rows
say so.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fidelity_methods import EVICTING_FAMILY, OUR_FAMILY, REFERENCE, all_methods  # noqa: E402
from fidelity_protocol import ExactReading, Method, measure, read_exactly  # noqa: E402

import nexusquant  # noqa: E402
from nexusquant.engine import LoadedModel, load_embedded_model, load_model  # noqa: E402

LIBRARIES = ("torch", "transformers", "optimum-quanto", "hqq")
SAME_IN_ONE_FILE = (
    "benchmark",
    "model",
    "prefix_tokens",
    "compared_tokens",
    "chunk_tokens",
    "keep_new_exact",
)
"""What rows of one file must agree on."""

COLUMNS = (
    ("stored_bytes", "bytes", "{:,.0f}"),
    ("factor", "factor", "{:.2f}"),
    ("bits_per_value", "bits", "{:.2f}"),
    ("kl", "KL", "{:.5f}"),
    ("delta_nll", "delta NLL", "{:+.5f}"),
    ("top1_agreement", "same top", "{:.4f}"),
    ("final_factor", "factor at end", "{:.2f}"),
    ("seconds", "s", "{:.0f}"),
)


def main() -> None:
    """Measure every method on every text."""
    parser = _parser()
    options = parser.parse_args()
    if options.model:
        loaded = load_model(options.model, options.device)
    else:
        loaded = load_embedded_model(options.data_dir, options.device)
    loaded.model.to(getattr(torch, options.dtype))
    texts = {name: _ids(loaded, Path(path), options) for name, path in options.text}
    results = _open_results(options.out, _setting(loaded, options), texts)
    profile = functools.cache(lambda: nexusquant.build_profile(loaded.model, loaded.tokenizer))
    methods = _selected(all_methods(profile, keep_new_exact=options.keep_new_exact), options.only)
    if not methods:
        parser.error(f"no method's name contains {' or '.join(options.only)}")
    if any(method.family in (OUR_FAMILY, EVICTING_FAMILY) for method in methods):
        started = time.perf_counter()
        profile()
        results["profile_seconds"] = round(time.perf_counter() - started, 1)
    _print_row("text", "method", [title for _, title, _ in COLUMNS])
    for name, ids in texts.items():
        reading = read_exactly(loaded.model, ids, options.prefix, options.chunk)
        for method in methods:
            row = {"text": name, "method": method.name, "family": method.family}
            row |= _measured(loaded.model, method, reading)
            _print_row(name, method.name, _cells(row))
            _add_row(results, row)
            _write(options.out, results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", action="append", required=True, type=_named_file, metavar="NAME=FILE")
    add("--prefix", type=int, default=7168, help="tokens read into the cache")
    add("--tokens", type=int, default=512, help="tokens compared after it")
    add("--chunk", type=int, default=64, help="tokens of one step after the prefix")
    add("--keep-new-exact", action="store_true", help="code the prefix only")
    add("--only", action="append", default=[], metavar="SUBSTRING", help="of a method's name")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results" / "fidelity.json")
    add("--model", help="Hugging Face id or folder; default: the embedded model")
    add("--device", default="auto")
    # 16-bit arithmetic differs from itself by more than the best codes differ from it
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--data-dir", type=Path, default=Path("data"))
    return parser


def _named_file(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (name and separator and Path(path).is_file()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE with a file that exists")
    return name, path


def _ids(loaded: LoadedModel, path: Path, options: argparse.Namespace) -> torch.Tensor:
    """Prefix, compared tokens and the one that follows them. [1, P + T + 1]."""
    text = path.read_text(encoding="utf-8")
    ids = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    num_wanted = options.prefix + options.tokens + 1
    if ids.shape[1] < num_wanted:
        raise SystemExit(f"{path} has {ids.shape[1]} tokens; {num_wanted} are needed.")
    return ids[:, :num_wanted]


def _setting(loaded: LoadedModel, options: argparse.Namespace) -> dict[str, object]:
    return {
        "benchmark": "fidelity",
        "model": loaded.name,
        "prefix_tokens": options.prefix,
        "compared_tokens": options.tokens,
        "chunk_tokens": options.chunk,
        "keep_new_exact": options.keep_new_exact,
        "device": str(loaded.device),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "machine": platform.machine(),
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _open_results(
    path: Path, setting: dict[str, object], texts: dict[str, torch.Tensor]
) -> dict[str, object]:
    """The file to go on with, or a new one.

    Raises:
        SystemExit: The file holds rows of another setting or of other texts.
    """
    digests = {
        name: hashlib.sha256(ids.numpy().tobytes()).hexdigest() for name, ids in texts.items()
    }
    if not path.exists():
        return {**setting, "texts": digests, "rows": []}
    results = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name in SAME_IN_ONE_FILE if results.get(name) != setting[name]]
    differing += [
        name for name in digests if results["texts"].get(name, "") not in ("", digests[name])
    ]
    if differing:
        raise SystemExit(f"{path} differs in {', '.join(differing)}; choose another --out.")
    versions = {**results["versions"], **{k: v for k, v in setting["versions"].items() if v}}
    return {**results, **setting, "versions": versions, "texts": {**results["texts"], **digests}}


def _selected(methods: Sequence[Method], substrings: Sequence[str]) -> list[Method]:
    if not substrings:
        return list(methods)
    return [method for method in methods if any(part in method.name for part in substrings)]


def _measured(model: PreTrainedModel, method: Method, reading: ExactReading) -> dict[str, object]:
    """Figures of one method, or the reason why there are none."""
    started = time.perf_counter()
    try:
        figures = measure(model, method, reading)
    except Exception as error:  # noqa: BLE001 - what a peer cannot do belongs into the table
        return {"error": f"{type(error).__name__}: {error}"}
    if method.name == REFERENCE and figures["stored_bytes"] != figures["uncompressed_bytes"]:
        # sizes that nobody can doubt, so a miscount shows here
        raise RuntimeError(f"The walk counts {figures} for plain 16-bit keys and values.")
    figures["bits_per_value"] = 16 / figures["factor"]
    return figures | {"seconds": time.perf_counter() - started}


def _add_row(results: dict[str, object], row: dict[str, object]) -> None:
    place = (row["text"], row["method"])
    others = [old for old in results["rows"] if (old["text"], old["method"]) != place]
    rounded = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in row.items()
    }
    results["rows"] = [*others, rounded]


def _write(path: Path, results: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    setting = {name: value for name, value in results.items() if name != "rows"}
    head = json.dumps(setting, indent=1).removesuffix("\n}")
    # one row a line, so that a change can be read
    rows = ",\n".join("  " + json.dumps(row) for row in results["rows"])
    path.write_text(f'{head},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def _cells(row: dict[str, object]) -> list[str]:
    if "error" in row:
        return [str(row["error"]).splitlines()[0][:90]]
    return [pattern.format(row[name]) for name, _, pattern in COLUMNS]


def _print_row(text: str, method: str, cells: Sequence[str]) -> None:
    print(f"{text:8} {method:68}", *(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
