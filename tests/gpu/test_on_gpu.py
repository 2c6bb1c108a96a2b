"""The same properties on a real GPU: equality with the CPU, real bytes, real out-of-memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny_models import VOCABULARY, llama

import nexusquant
from nexusquant.config import PRESETS
from nexusquant.engine import JobState, Worker
from nexusquant.engine.events import Event, TextDelta
from nexusquant.engine.memory import read_memory
from nexusquant.engine.prefill import forward
from nexusquant.errors import OutOfMemoryError
from nexusquant.lattice import E8Quantizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GPU = torch.device("cuda")


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codes_made_on_the_gpu_equal_those_of_the_cpu_except_at_ties(bits: int) -> None:
    vectors = torch.randn(3, 2000, 128, generator=torch.Generator().manual_seed(bits))
    on_cpu = E8Quantizer.create(128, bits, 0, "cpu")
    on_gpu = E8Quantizer.create(128, bits, 0, GPU)
    expected, got = on_cpu.encode(vectors), on_gpu.encode(vectors.to(GPU))
    same = (expected.codes == got.codes.cpu()).all(dim=-1)
    assert same.float().mean() > 0.99
    error = [
        (q.decode(p, torch.float32).cpu() - vectors).square().mean()
        for q, p in ((on_cpu, expected), (on_gpu, got))
    ]
    torch.testing.assert_close(error[0], error[1], rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_allocated_memory_grows_by_the_bytes_that_usage_reports(dtype: torch.dtype) -> None:
    model = llama().to(GPU, dtype)
    ids = torch.randint(0, VOCABULARY, (1, 6000), generator=torch.Generator().manual_seed(0))
    nexusquant.prefill(model, ids[:, :512], PRESETS["high"])
    torch.cuda.synchronize()
    # what other tests left in circles would go at some time in between
    gc.collect()
    before = torch.cuda.memory_allocated()
    cache = nexusquant.prefill(model, ids, PRESETS["high"])
    torch.cuda.synchronize()
    grown = torch.cuda.memory_allocated() - before
    # the allocator rounds every tensor up to 512 bytes
    num_tensors = 24 * len(cache.layers)
    assert abs(grown - cache.usage().stored_bytes) <= 512 * num_tensors


@pytest.mark.parametrize("preset", ["off", "safe", "high"])
def test_logits_on_the_gpu_are_those_of_the_cpu(preset: str) -> None:
    config = replace(PRESETS[preset])
    ids = torch.randint(0, VOCABULARY, (1, 700), generator=torch.Generator().manual_seed(0))
    # a basis fitted on each device would be another one where directions matter alike
    profile = nexusquant.build_profile(llama(), token_ids=ids)
    logits = []
    for device in ("cpu", "cuda"):
        model = llama().to(device)
        cache = nexusquant.prefill(model, ids[:, :690], config, profile=profile)
        logits.append(forward(model, ids[:, 690:].to(device), cache).cpu())
    # a tie that falls the other way changes single codes
    torch.testing.assert_close(logits[0], logits[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_is_measured_on_the_gpu_as_on_the_cpu(dtype: torch.dtype) -> None:
    ids = torch.randint(0, VOCABULARY, (1, 400), generator=torch.Generator().manual_seed(0))
    on_cpu = nexusquant.build_profile(llama(), token_ids=ids)
    model = llama().to(GPU, dtype)
    on_gpu = nexusquant.build_profile(model, token_ids=ids)
    assert on_gpu.pairings == on_cpu.pairings
    for one, other in zip(on_cpu.bases, on_gpu.bases, strict=True):
        torch.testing.assert_close(other.mean.cpu(), one.mean, atol=0.05, rtol=0.05)
    cache = nexusquant.prefill(model, ids, PRESETS["safe"], profile=on_gpu)
    logits = forward(model, ids[:, :40].to(GPU), cache)
    assert bool(logits.isfinite().all())


def test_a_real_out_of_memory_is_told_freed_and_survived() -> None:
    worker = Worker()
    before = torch.cuda.memory_allocated()

    def greedy() -> Iterator[Event]:
        held = []
        while True:
            held.append(torch.empty(2**32, dtype=torch.uint8, device=GPU))
            yield TextDelta("")

    job = worker.submit(greedy)
    assert job.wait(120)
    assert job.state is JobState.FAILED
    assert isinstance(job.error, OutOfMemoryError)

    def fine() -> Iterator[Event]:
        yield TextDelta("fine")

    after = worker.submit(fine)
    assert after.wait(10)
    assert after.state is JobState.DONE
    assert torch.cuda.memory_allocated() <= before + 2**20
    worker.close()


def test_memory_is_asked_of_the_driver() -> None:
    reading = read_memory(torch.device("cuda:0"))
    assert reading.device_total_bytes >= torch.cuda.get_device_properties(0).total_memory
    assert 0 < reading.device_free_bytes < reading.device_total_bytes
