"""How fast vectors become packed bytes on this GPU: the kernel, and plain torch beside it.

The shape is Llama-3.1-8B's: 8 KV heads of 128 values in bfloat16. Keys have a basis for each head,
mixed widths of 2 bits on average and a rotation to take off; values share a rotation of 2 bits.
Refuses to print times if the kernel's codes are not the reference's. The last line is one JSON
document.

    python benchmarks/encode.py [--tokens 8192 32768] [--sweep]
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import triton

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from encode_cases import assert_same_codes, bare, gaussian, key_coder, keys_of, rotary_of

from nexusquant.kernels import encode, triton_problem
from nexusquant.kernels.encode import reference
from nexusquant.kernels.encode.triton_launch import Tiling, launch
from nexusquant.lattice import E8Quantizer, PackedVectors, Pairing, Rotary

NUM_HEADS, HEAD_DIM = 8, 128
GPU = torch.device("cuda")


class Task(NamedTuple):
    """Vectors of one layer and what codes them."""

    name: str
    coder: E8Quantizer
    vectors: torch.Tensor
    positions: torch.Tensor
    rotary: Rotary | None
    pairing: Pairing


def main() -> None:
    """Measure keys and values at every length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--repeats", type=int, default=20, help="times that each is measured")
    parser.add_argument("--sweep", action="store_true", help="try other tilings of the kernel")
    options = parser.parse_args()
    problem = triton_problem(GPU) if torch.cuda.is_available() else "torch sees no NVIDIA GPU"
    if problem is not None:
        parser.exit(1, f"There is nothing to measure: {problem}.\n")
    rows = [
        measure(task, options.repeats) for count in options.tokens for task in make_tasks(count)
    ]
    if options.sweep:
        for task in make_tasks(max(options.tokens)):
            sweep(task, options.repeats)
    print(json.dumps({**setting(), "rows": rows}))


def setting() -> dict[str, object]:
    """What was measured on."""
    return {
        "benchmark": "encode",
        "device": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "num_kv_heads": NUM_HEADS,
        "head_dim": HEAD_DIM,
        "dtype": "bfloat16",
    }


def make_tasks(num_tokens: int) -> Iterator[Task]:
    """Keys and values of so many tokens, in memory as a model makes them: [1, T, H, D]."""
    positions = torch.arange(num_tokens, device=GPU)
    coder, rotary = key_coder(NUM_HEADS, HEAD_DIM, 2, "cuda"), rotary_of(HEAD_DIM, device="cuda")
    keys = rotary.put_on(keys_of(coder, num_tokens).to(GPU), positions, Pairing.HALVES)
    yield Task("keys", coder, _as_made(keys), positions, rotary, Pairing.HALVES)
    values = gaussian(NUM_HEADS, num_tokens, HEAD_DIM).to(GPU)
    coder = E8Quantizer.create(HEAD_DIM, 2, 0, GPU)
    yield Task("values", coder, _as_made(values), positions, None, Pairing.NONE)


def _as_made(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.bfloat16().transpose(0, 1).contiguous().transpose(0, 1)


def measure(task: Task, repeats: int) -> dict[str, object]:
    """Check one task's codes, then time them."""
    name, *arguments = task
    packed = check(task, encode(*arguments))
    start, _ = kernel_alone(task)
    times = {
        "reference_ms": time_ms(lambda: reference.encode(*arguments), repeats),
        "kernel_ms": time_ms(lambda: encode(*arguments), repeats),
        "launch_ms": time_ms(start, repeats),
        "encoder_ms": time_ms(lambda: task.coder.encoder, repeats),
    }
    moved = sum(part.nbytes for part in (task.vectors, task.positions, *packed))
    row = {
        "vectors": name,
        "tokens": task.vectors.shape[1],
        "bytes_per_vector": task.coder.bytes_per_vector,
        **{label: round(value, 4) for label, value in times.items()},
        "speed_up": round(times["reference_ms"] / times["kernel_ms"], 2),
        # bytes that must move, over the time of the launch
        "effective_gb_s": round(moved / times["launch_ms"] / 1e6, 1),
    }
    print(" ".join(f"{label}={value}" for label, value in row.items()))
    return row


def check(task: Task, packed: PackedVectors) -> PackedVectors:
    """Return codes that are the reference's, except at ties; stop at others."""
    _, *arguments = task
    exact = bare(task.vectors, *arguments[2:])
    expected = reference.encode(*arguments)
    assert_same_codes(task.coder, exact, task.positions, packed, expected, 0.01, 0.001)
    return packed


def kernel_alone(
    task: Task, tiling: Tiling | None = None
) -> tuple[Callable[[], object], PackedVectors]:
    """What starts the kernel and nothing else, and where its codes will be."""
    _, coder, vectors, *others = task
    shape = vectors.shape[:2]
    codes = torch.empty((*shape, coder.bytes_per_vector - 1), dtype=torch.uint8, device=GPU)
    pool = PackedVectors(codes, torch.empty(shape, dtype=torch.uint8, device=GPU))
    encoder = coder.encoder.contiguous()
    return lambda: launch(pool, None, coder, encoder, vectors, *others, tiling), pool


def sweep(task: Task, repeats: int) -> None:
    """Print the time of the kernel in other tilings, the fastest first."""
    found = []
    sizes = itertools.product((16, 32, 64), (32,), (4, 8, 16), ("tf32x3", "ieee"))
    for tiling in itertools.starmap(Tiling, sizes):
        start, pool = kernel_alone(task, tiling)
        try:
            start()
        except triton.runtime.errors.OutOfResources:
            continue
        check(task, pool)
        found.append((time_ms(start, repeats), tiling))
    for milliseconds, tiling in sorted(found):
        print(f"{task.name}: {milliseconds:.4f} ms {tiling}")


def time_ms(call: Callable[[], object], repeats: int) -> float:
    """Median time on the GPU in milliseconds, with nothing of the input in its L2 cache."""
    flush = torch.empty(2**28, dtype=torch.uint8, device=GPU)
    times = []
    for repeat in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        # the first ones build the kernel and fill pools of memory
        if repeat >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


if __name__ == "__main__":
    main()
