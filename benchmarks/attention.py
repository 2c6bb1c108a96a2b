"""One token's attention over a long text on this GPU: packed pages against 16-bit keys and values.

The shape is one layer of Llama-3.1-8B: 8 KV heads, 32 query heads, 128 values. Codes are random
bytes in a preset's bits, as many as it keeps, with what it holds exactly beside them; times are
medians of CUDA graphs, the better of flash attention and cuDNN beside them. Before each run other
memory goes through the L2 cache: once by writes, as Triton's `do_bench` does it, and once by reads,
which that cannot, as a step reads weights between two layers. After writes all reads wait for what
is written back, and who reads more waits longer. Refuses to print times if the kernel's sums are
not the reference's. The last line is one JSON document.

    python benchmarks/attention.py [--tokens 8192 32768 131072]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nexusquant import PRESETS
from nexusquant.config import PAGE_SIZE, CompressionConfig
from nexusquant.kernels import PackedView, decode_problem
from nexusquant.kernels.decode_attention import reference
from nexusquant.kernels.decode_attention.launch import attend
from nexusquant.lattice import (
    E8Quantizer,
    PackedVectors,
    Pairing,
    Rotary,
    RotarySegment,
)

NUM_KV_HEADS, NUM_HEADS, HEAD_DIM = 8, 32, 128
WIDTHS = {
    2.0: (5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0),
    2.5: (5, 5, 4, 4, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1),
    3.5: (7, 6, 5, 5, 4, 4, 4, 3, 3, 3, 3, 3, 2, 2, 1, 1),
}
"""Bits of the keys' groups by their mean, as a measured model shares them out."""
SCALING = HEAD_DIM**-0.5
NUM_EXACT = 68
"""Vectors that a preset holds exactly: sinks and the newest."""
MOST_ERROR = 0.003
"""Of outputs, which are means over so many random tokens that little is left of them."""
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
FLUSH_BYTES = 2**29
"""More than any L2 cache has."""
WARMUPS, RUNS = 10, 60
GPU = torch.device("cuda")


def main() -> None:
    """Measure every length and preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768, 131_072])
    options = parser.parse_args()
    problem = (
        decode_problem(GPU, HEAD_DIM) if torch.cuda.is_available() else "torch sees no NVIDIA GPU"
    )
    if problem is not None:
        parser.exit(1, f"There is nothing to measure: {problem}.\n")
    torch.manual_seed(0)
    rows = []
    for num_tokens in options.tokens:
        exact = exact_times(num_tokens)
        for preset in ("safe", "high", "balanced", "max"):
            rows.append(measure(preset, num_tokens, exact))
            print(rows[-1], flush=True)
    setting = {
        "benchmark": "attention",
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "shape": [NUM_KV_HEADS, NUM_HEADS, HEAD_DIM],
    }
    print(json.dumps({**setting, "rows": rows}))


def exact_times(num_tokens: int) -> dict[str, dict[str, float]]:
    """Of SDPA in float16 over every token, by backend; see `median_us`."""
    keys = torch.randn(1, NUM_KV_HEADS, num_tokens, HEAD_DIM, device=GPU, dtype=torch.float16)
    values = torch.randn_like(keys)
    query = torch.randn(1, NUM_HEADS, 1, HEAD_DIM, device=GPU, dtype=torch.float16)

    def attend(backend: SDPBackend) -> torch.Tensor:
        with sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(
                query, keys, values, enable_gqa=True
            )

    return {
        name: median_us(lambda backend=backend: attend(backend))
        for name, backend in BACKENDS.items()
    }


def measure(preset: str, num_tokens: int, exact: dict[str, dict[str, float]]) -> dict:
    """Microseconds of the kernel, and how that compares."""
    view = random_view(num_tokens, PRESETS[preset])
    query = torch.randn(NUM_HEADS, HEAD_DIM, device=GPU, dtype=torch.float16)
    exact_vectors = [random_vectors(NUM_EXACT) for _ in range(2)]
    error = relative_error(query, view, exact_vectors)
    if not error < MOST_ERROR:
        raise SystemExit(f"The kernel's sums are wrong by {error:.3f}: no time is worth telling.")
    times = {**exact, "kernel": median_us(lambda: attend(query, view, *exact_vectors, SCALING))}
    row: dict = {"preset": preset, "num_tokens": num_tokens, "error": round(error, 5)}
    for flush, suffix in (("writes", ""), ("reads", "_after_reads")):
        row |= {f"{name}_us{suffix}": of_name[flush] for name, of_name in times.items()}
        best = min(of_name[flush] for of_name in exact.values())
        row[f"times_as_fast{suffix}"] = round(best / times["kernel"][flush], 3)
    return row


def random_view(num_tokens: int, config: CompressionConfig) -> PackedView:
    """A layer in which every head kept as many tokens, somewhere in the text."""
    keep_ratio = config.eviction.keep_ratio if config.eviction else 1.0
    widths = WIDTHS[config.quant.key_bits]
    coder = E8Quantizer.of_rows(
        widths,
        0.3 * torch.randn(NUM_KV_HEADS, HEAD_DIM, HEAD_DIM, device=GPU),
        torch.ones(NUM_KV_HEADS, len(widths), device=GPU),
        torch.randn(NUM_KV_HEADS, 1, HEAD_DIM, device=GPU),
    )
    values = E8Quantizer.create(HEAD_DIM, config.quant.value_bits, 0, GPU)
    num_kept = int(num_tokens * keep_ratio) // PAGE_SIZE * PAGE_SIZE
    num_pages = NUM_KV_HEADS * num_kept // PAGE_SIZE
    table = torch.randperm(num_pages, device=GPU, dtype=torch.int32).view(NUM_KV_HEADS, -1)
    lengths = torch.full((NUM_KV_HEADS,), num_kept, device=GPU)
    is_whole = keep_ratio == 1
    draws = (torch.randperm(num_tokens, device=GPU)[:num_kept] for _ in range(NUM_KV_HEADS))
    every = torch.arange(num_kept, device=GPU).expand(NUM_KV_HEADS, -1)
    positions = every if is_whole else torch.stack([draw.sort().values for draw in draws])
    frequencies = 500_000.0 ** -(torch.arange(HEAD_DIM // 2, device=GPU) * 2 / HEAD_DIM)
    rotary = Rotary([RotarySegment(0, frequencies)])
    pools = (random_pool(num_pages, each.bytes_per_vector - 1) for each in (coder, values))
    held = (*pools, table, lengths, positions)
    return PackedView(*held, coder, values, rotary, Pairing.HALVES, 0 if is_whole else None)


def random_pool(num_pages: int, num_bytes: int) -> PackedVectors:
    """Codes of anything, with scales near 1."""
    codes = torch.randint(256, (num_pages, PAGE_SIZE, num_bytes), dtype=torch.uint8, device=GPU)
    scales = torch.randint(100, 140, (num_pages, PAGE_SIZE), dtype=torch.uint8, device=GPU)
    return PackedVectors(codes, scales)


def random_vectors(count: int) -> torch.Tensor:
    """Exact keys or values."""
    return torch.randn(NUM_KV_HEADS, count, HEAD_DIM, device=GPU, dtype=torch.float16)


def relative_error(
    query: torch.Tensor, view: PackedView, exact_vectors: list[torch.Tensor]
) -> float:
    """How far the kernel's output is from the reference's."""
    # logits of about 1, so that every token counts
    scaling = SCALING / 4
    actual = attend(query, view, *exact_vectors, scaling).float()
    exact = [vectors.float() for vectors in exact_vectors]
    expected = reference.packed_attention(query[:, None].float(), view, *exact, scaling)[:, 0]
    return float((actual - expected).norm() / expected.norm())


def median_us(work: Callable[[], object]) -> dict[str, float]:
    """Microseconds of `work` as a CUDA graph, which waits for no Python; by what went before it."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    other = torch.zeros(FLUSH_BYTES // 4, device=GPU)
    flushes = {"writes": other.zero_, "reads": other.sum}
    return {name: _median_us(graph.replay, flush) for name, flush in flushes.items()}


def _median_us(work: Callable[[], object], flush: Callable[[], object]) -> float:
    spans = []
    for _ in range(WARMUPS + RUNS):
        flush()
        spans.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
        spans[-1][0].record()
        work()
        spans[-1][1].record()
    torch.cuda.synchronize()
    times = [1e3 * start.elapsed_time(end) for start, end in spans[WARMUPS:]]
    return round(statistics.median(times), 1)


if __name__ == "__main__":
    main()
